#!/usr/bin/env bash
# One would guess: a mask of shape [batch, heads, queries, keys] can be boolean, true where a token may look, whichever
#   attention implementation is set; or one that cannot be used is refused.
# Seen: only "sdpa" reads it so. "eager" adds the mask to the scores, and true counts as one: a forbidden key keeps 1/e
#   of its odds, and every token sees later ones. Nothing is logged. Integers of 0 and 1 do the same in eager and are
#   refused in sdpa; floats of 0 and 1 do it in both.
# Means: attention knockout needs attention weights, so it is run in eager, and there such a mask knocks out nothing and
#   breaks causality besides, while the same script in sdpa is right. Give 0 and the dtype's lowest number, which both
#   read alike, or look at the weights that should be zero.
# With: transformers 5.22.2 (masking_utils passes masks of four dimensions on as they are), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTH, QUERY, KEY = 6, 4, 1
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)
model = LlamaForCausalLM(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        weight.data *= 6
tokens = torch.randint(0, 64, (1, LENGTH))
later = tokens.clone()
later[0, -1] = (later[0, -1] + 1) % 64
allowed = torch.ones(1, 1, LENGTH, LENGTH).tril().bool()
allowed[..., QUERY, KEY] = False
lowest = torch.finfo(torch.float32).min
masks = {
    "0 and lowest": torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~allowed, lowest),
    "boolean": allowed, "integer 0 and 1": allowed.long(), "float 0 and 1": allowed.float(),
}


def run(prompt, mask, **settings):
    with torch.no_grad():
        return model(prompt, attention_mask=mask, use_cache=False, **settings)


model.set_attn_implementation("eager")
right = run(tokens, masks["0 and lowest"]).logits
for implementation in ("sdpa", "eager"):
    model.set_attn_implementation(implementation)
    for name, mask in masks.items():
        try:
            logits = run(tokens, mask).logits
        except RuntimeError:
            print(f"{implementation}, {name}: refused")
            continue
        causal = torch.allclose(logits[:, :-1], run(later, mask).logits[:, :-1], atol=1e-4)
        print(f"{implementation}, {name}: right: {torch.allclose(logits, right, atol=1e-4)}, causal: {causal}")
free = torch.zeros(1, 1, LENGTH, LENGTH)
open_weights, weights = (run(tokens, mask, output_attentions=True).attentions[0] for mask in (free, allowed))
odds = (weights[0, :, QUERY, KEY] / weights[0, :, QUERY, 0]) / (
    open_weights[0, :, QUERY, KEY] / open_weights[0, :, QUERY, 0]
)
print("eager, boolean: odds of the forbidden key against an allowed one, by head, as without a mask times:", end=" ")
print(*(f"{value:.3f}" for value in odds))
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
sdpa, 0 and lowest: right: True, causal: True
sdpa, boolean: right: True, causal: True
sdpa, integer 0 and 1: refused
sdpa, float 0 and 1: right: False, causal: False
eager, 0 and lowest: right: True, causal: True
eager, boolean: right: False, causal: False
eager, integer 0 and 1: right: False, causal: False
eager, float 0 and 1: right: False, causal: False
eager, boolean: odds of the forbidden key against an allowed one, by head, as without a mask times: 0.368 0.368 0.368 0.368
SEEN
