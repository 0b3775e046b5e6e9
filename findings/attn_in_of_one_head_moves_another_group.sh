#!/usr/bin/env bash
# One would guess: with `set_use_attn_in(True)`, `hook_attn_in` holds a copy of the residual stream for each head, and
#   what is put into the copy of head h reaches head h alone. Where heads share keys and values (Llama 3, Mistral,
#   Qwen), it reaches the keys and values of its group too, or it is refused: TransformerLens 2 did refuse it.
# Seen: the copy of head h feeds the query of head h, but keys and values of group g come from the copy of head g. With
#   8 heads in 2 groups, copy 1 changes head 1 by its query alone, and heads 4 to 7 by their keys and values; copies 2
#   to 7 change queries and nothing else. Shapes fit, and nothing is logged. With a group for each head all is as one
#   would guess.
# Means: path patching into heads finds that the first few heads matter and the others hardly do, as the first ones'
#   copies carry the keys and values of the whole layer, and it names heads of the wrong group. Call
#   `set_use_split_qkv_input(True)` instead: `hook_k_input` and `hook_v_input` have one copy for each group.
# With: transformer-lens 4.3.0 (model_bridge/generalized_components/position_embeddings_attention.py, alike
#   joint_qkv_attention.py), transformers 5.22.2, torch 2.13.0, on PyPI.
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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEADS = 8
PARTS = {"queries": "q", "keys": "k", "values": "v", "outputs": "z"}
ENDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 64)}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", bos_token="<s>",
    eos_token="</s>", unk_token="<pad>",
)
tokens, others = torch.randint(3, 64, (2, 1, 8), generator=torch.Generator().manual_seed(0))


def boot(groups):
    torch.manual_seed(0)
    config = LlamaConfig(
        **ENDS, hidden_size=64, intermediate_size=48, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=groups,
    )
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    path = f"{sys.argv[1]}/{groups}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return TransformerBridge.boot_transformers(path, device="cpu")


def swap(bridge, hook_name, copy):
    """By part of attention, the heads that change when one copy is that of the other prompt."""
    _, before = bridge.run_with_cache(tokens)
    _, other = bridge.run_with_cache(others)
    after = {}

    def put_in(copies, hook):
        copies = copies.clone()
        copies[:, :, copy] = other[hook_name][:, :, copy]
        return copies

    def keep(part):
        return lambda value, hook: after.update({part: value.clone()})

    names = {part: f"blocks.0.attn.hook_{letter}" for part, letter in PARTS.items()}
    bridge.run_with_hooks(
        tokens, fwd_hooks=[(hook_name, put_in), *((name, keep(part)) for part, name in names.items())]
    )
    changes = {part: (after[part] - before[name]).abs().amax(dim=(0, 1, 3)) > 1e-4 for part, name in names.items()}
    return ", ".join(f"{part} {changed.nonzero().flatten().tolist()}" for part, changed in changes.items())


with torch.no_grad():
    for groups in (8, 2):
        bridge = boot(groups)
        bridge.set_use_attn_in(True)
        print(f"{HEADS} heads, {groups} groups, hook_attn_in:")
        for copy in range(HEADS):
            print(f"    copy {copy} changes {swap(bridge, 'blocks.0.hook_attn_in', copy)}")
    bridge.set_use_attn_in(False)
    bridge.set_use_split_qkv_input(True)
    for letter in "qkv":
        print(f"{HEADS} heads, {groups} groups, hook_{letter}_input:")
        print(f"    copy 1 changes {swap(bridge, f'blocks.0.hook_{letter}_input', 1)}")
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
8 heads, 8 groups, hook_attn_in:
    copy 0 changes queries [0], keys [0], values [0], outputs [0]
    copy 1 changes queries [1], keys [1], values [1], outputs [1]
    copy 2 changes queries [2], keys [2], values [2], outputs [2]
    copy 3 changes queries [3], keys [3], values [3], outputs [3]
    copy 4 changes queries [4], keys [4], values [4], outputs [4]
    copy 5 changes queries [5], keys [5], values [5], outputs [5]
    copy 6 changes queries [6], keys [6], values [6], outputs [6]
    copy 7 changes queries [7], keys [7], values [7], outputs [7]
8 heads, 2 groups, hook_attn_in:
    copy 0 changes queries [0], keys [0], values [0], outputs [0, 1, 2, 3]
    copy 1 changes queries [1], keys [1], values [1], outputs [1, 4, 5, 6, 7]
    copy 2 changes queries [2], keys [], values [], outputs [2]
    copy 3 changes queries [3], keys [], values [], outputs [3]
    copy 4 changes queries [4], keys [], values [], outputs [4]
    copy 5 changes queries [5], keys [], values [], outputs [5]
    copy 6 changes queries [6], keys [], values [], outputs [6]
    copy 7 changes queries [7], keys [], values [], outputs [7]
8 heads, 2 groups, hook_q_input:
    copy 1 changes queries [1], keys [], values [], outputs [1]
8 heads, 2 groups, hook_k_input:
    copy 1 changes queries [], keys [1], values [], outputs [4, 5, 6, 7]
8 heads, 2 groups, hook_v_input:
    copy 1 changes queries [], keys [], values [1], outputs [4, 5, 6, 7]
SEEN
