#!/usr/bin/env bash
# One would guess: position_ids say where tokens are, attention_mask says what is seen, and use_cache says what is kept.
#   In one forward pass over a prompt without padding, use_cache and a mask of ones make no difference.
# Seen: true only of positions that go up by one. Where they jump, repeat or go back, `use_cache=False` without a mask
#   gives other logits: transformers then takes the tokens from there on for another text of a packed row, and they
#   attend to nothing before it. With a cache, as is the default, or with a mask of ones, they attend to everything.
#   Nothing is logged. Positions in steps of two cut every token off from every other.
# Means: an experiment on positions (a gap, a repeat, a shifted half) that saves memory by use_cache=False measures a
#   cut and calls it an effect of distance. Always pass attention_mask with position_ids.
# With: transformers 5.22.2 (masking_utils.find_packed_sequence_indices), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)
model = LlamaForCausalLM(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        weight.data *= 6
tokens = torch.randint(0, 64, (1, 8))
ones = torch.ones_like(tokens)
cases = {
    "0 1 2 3 4 5 6 7": range(8),
    "0 1 2 3, 14 15 16 17": [0, 1, 2, 3, 14, 15, 16, 17],
    "0 1 2 3, 3 4 5 6": [0, 1, 2, 3, 3, 4, 5, 6],
    "0 2 4 6 8 10 12 14": range(0, 16, 2),
}


def run(positions, **settings):
    with torch.no_grad():
        return model(tokens, position_ids=torch.tensor([list(positions)]), **settings)


for implementation in ("sdpa", "eager"):
    model.set_attn_implementation(implementation)
    for name, positions in cases.items():
        usual = run(positions).logits
        uncached = run(positions, use_cache=False).logits
        masked = run(positions, use_cache=False, attention_mask=ones).logits
        same = [torch.allclose(usual, logits, atol=1e-4) for logits in (uncached, masked)]
        print(f"{implementation}, {name}: logits as usual: use_cache=False {same[0]}; a mask of ones too {same[1]}")
for name in list(cases)[1::2]:
    for settings in ({}, {"use_cache": False}):
        weights = run(cases[name], output_attentions=True, **settings).attentions[0][0, 0]
        seen = (weights[-1] > 0).nonzero().flatten().tolist()
        print(f"{name}, {settings or 'usual'}: the last token attends to tokens", *seen)
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
sdpa, 0 1 2 3 4 5 6 7: logits as usual: use_cache=False True; a mask of ones too True
sdpa, 0 1 2 3, 14 15 16 17: logits as usual: use_cache=False False; a mask of ones too True
sdpa, 0 1 2 3, 3 4 5 6: logits as usual: use_cache=False False; a mask of ones too True
sdpa, 0 2 4 6 8 10 12 14: logits as usual: use_cache=False False; a mask of ones too True
eager, 0 1 2 3 4 5 6 7: logits as usual: use_cache=False True; a mask of ones too True
eager, 0 1 2 3, 14 15 16 17: logits as usual: use_cache=False False; a mask of ones too True
eager, 0 1 2 3, 3 4 5 6: logits as usual: use_cache=False False; a mask of ones too True
eager, 0 2 4 6 8 10 12 14: logits as usual: use_cache=False False; a mask of ones too True
0 1 2 3, 14 15 16 17, usual: the last token attends to tokens 0 1 2 3 4 5 6 7
0 1 2 3, 14 15 16 17, {'use_cache': False}: the last token attends to tokens 4 5 6 7
0 2 4 6 8 10 12 14, usual: the last token attends to tokens 0 1 2 3 4 5 6 7
0 2 4 6 8 10 12 14, {'use_cache': False}: the last token attends to tokens 7
SEEN
