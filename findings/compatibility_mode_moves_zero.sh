#!/usr/bin/env bash
# One would guess: `enable_compatibility_mode` rewrites weights without changing what the model computes, so that
#   setting a head's output (hook_z) to zero costs the same before and after it.
# Seen: the logits stay, and so does patching hook_z from another prompt. Zero ablation does not, where values have a
#   bias (GPT-2, GPT-NeoX, Qwen 2): by default the bias goes through the output matrix into that layer's one output
#   bias. Before, zero takes the head's bias away; after, the bias stays whatever is done to the head. Llama has none.
# Means: zero ablations and attribution with a baseline of zero rank heads otherwise by how the model was loaded, and
#   differ from a hook on transformers' model. Say which, patch from prompts, or pass fold_value_biases=False.
# With: transformer-lens 4.3.0 (TransformerBridge.enable_compatibility_mode), transformers 5.22.2, torch 2.13.0, on
#   PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 transformer-lens==4.3.0
cat > "$folder/try.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config,
)

HOOK, HEAD = "blocks.0.attn.hook_z", 1
ENDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = ENDS | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
configs = {
    "Llama": LlamaConfig(**SIZES, num_key_value_heads=2), "Qwen 2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "GPT-NeoX": GPTNeoXConfig(**SIZES), "GPT-2": GPT2Config(**ENDS, n_embd=32, n_layer=2, n_head=4),
}
words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 64)}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", bos_token="<s>",
    eos_token="</s>", unk_token="<pad>",
)
tokens, others = torch.randint(3, 64, (2, 1, 8), generator=torch.Generator().manual_seed(0))


def run(bridge):
    """Log-probabilities as they are, with the head at zero, and with the head from the other prompt."""
    _, cache = bridge.run_with_cache(others)

    def put(value):
        def edit(z, hook):
            z = z.clone()
            z[:, :, HEAD] = value
            return z

        return bridge.run_with_hooks(tokens, fwd_hooks=[(HOOK, edit)])

    runs = bridge(tokens), put(0.0), put(cache[HOOK][:, :, HEAD])
    return [logits.log_softmax(dim=-1) for logits in runs]


for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in model.parameters():
        weight.data = weight.data * 6 if weight.ndim > 1 else weight.data + 0.5 * torch.randn(weight.shape)
    path = f"{sys.argv[1]}/{name.replace(' ', '')}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    for settings in ({}, {"fold_value_biases": False}):
        bridge = TransformerBridge.boot_transformers(path, device="cpu")
        with torch.no_grad():
            before = run(bridge)
            bridge.enable_compatibility_mode(disable_warnings=True, **settings)
            same = [torch.allclose(one, other, atol=1e-3) for one, other in zip(before, run(bridge), strict=True)]
        print(f"{name}, {settings or 'default'}: as before: {same[0]}, head at zero {same[1]}, patched {same[2]}")
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Llama, default: as before: True, head at zero True, patched True
Llama, {'fold_value_biases': False}: as before: True, head at zero True, patched True
Qwen 2, default: as before: True, head at zero False, patched True
Qwen 2, {'fold_value_biases': False}: as before: True, head at zero True, patched True
GPT-NeoX, default: as before: True, head at zero False, patched True
GPT-NeoX, {'fold_value_biases': False}: as before: True, head at zero True, patched True
GPT-2, default: as before: True, head at zero False, patched True
GPT-2, {'fold_value_biases': False}: as before: True, head at zero True, patched True
SEEN
