#!/usr/bin/env bash
# One would guess: a model that returns its cache goes on from it with as many tokens as one likes. If chunks did not
#   suit a recurrent state, that would be an error, or it would be so in every state-space model.
# Seen: Mamba, Falcon-Mamba and Jamba go on from it with one token at a time only. With two or more, the scan starts
#   from zero: the recurrent state that was kept makes no difference and is overwritten. The convolution does read its
#   last inputs from the cache, so the result is neither that of the whole text nor that of the chunk alone. Nothing is
#   logged; Mamba's documentation promises the output after both texts. Mamba 2 and Llama are right with any chunk.
# Means: a prefix (few-shot examples, a system prompt, the tokens before a patch) that is run once and reused for many
#   continuations is mostly forgotten, so its effect looks small, and later tokens inherit the fault. Feed the rest one
#   token at a time, or run the whole text again.
# With: transformers 5.22.2 and 5.24.0 (models/mamba/modeling_mamba.py, MambaMixer.forward: mamba_selective_scan takes
#   no initial state; alike falcon_mamba, jamba), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
"$folder/venv/bin/python" -m pip install --quiet --target "$folder/newer" transformers==5.24.0 numpy
cat > "$folder/try.py" <<'PY'
import copy

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": HEADS | {"mamba_d_state": 8, "num_experts": 2, "attn_layer_offset": 1, "attn_layer_period": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "llama": HEADS,
}
KEPT, ALL = 8, 16
tokens = torch.randint(1, 64, (1, ALL), generator=torch.Generator().manual_seed(0))
rest = tokens[:, KEPT:]


def go_on(cache, size):
    """Logits of the tokens after the kept ones, by chunks of `size`."""
    cache, logits = copy.deepcopy(cache), []
    for chunk in rest.split(size, dim=1):
        output = model(chunk, use_cache=True, **{word: cache})
        logits.append(output.logits)
    return torch.cat(logits, 1)


def same(one, other):
    return torch.allclose(one, other, atol=1e-3)


for name, settings in MODELS.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**SIZES, **settings)).eval()
    for key, weight in model.named_parameters():
        if weight.ndim > 1 and not key.endswith("A_log"):
            weight.data *= 4
    with torch.no_grad():
        output = model(tokens[:, :KEPT], use_cache=True)
        word = next(word for word in ("cache", "cache_params", "past_key_values") if word in list(output))
        kept = output[word]
        whole = model(tokens, use_cache=False).logits[:, KEPT:]
        right = [f"by {size} {same(go_on(kept, size), whole)}" for size in (1, 2, ALL - KEPT)]
        print(f"{transformers.__version__}, {name}: the rest after {KEPT} tokens is right:", *right)
        if name != "llama":
            emptied = copy.deepcopy(kept)
            for layer in emptied.layers:
                for state in getattr(layer, "recurrent_states", {}).values():
                    state.zero_()
            print(f"    at once it is the same with all states at zero: {same(go_on(kept, 8), go_on(emptied, 8))}")
            print(f"    by 1 it is the same with all states at zero: {same(go_on(kept, 1), go_on(emptied, 1))}")
            print(f"    at once it is the chunk alone: {same(go_on(kept, 8), model(rest, use_cache=False).logits)}")
PY
for path in "" "$folder/newer"; do
    PYTHONPATH="$path" "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
5.22.2, mamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.22.2, falcon_mamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.22.2, jamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.22.2, mamba2: the rest after 8 tokens is right: by 1 True by 2 True by 8 True
    at once it is the same with all states at zero: False
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.22.2, llama: the rest after 8 tokens is right: by 1 True by 2 True by 8 True
5.24.0, mamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.24.0, falcon_mamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.24.0, jamba: the rest after 8 tokens is right: by 1 True by 2 False by 8 False
    at once it is the same with all states at zero: True
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.24.0, mamba2: the rest after 8 tokens is right: by 1 True by 2 True by 8 True
    at once it is the same with all states at zero: False
    by 1 it is the same with all states at zero: False
    at once it is the chunk alone: False
5.24.0, llama: the rest after 8 tokens is right: by 1 True by 2 True by 8 True
SEEN
