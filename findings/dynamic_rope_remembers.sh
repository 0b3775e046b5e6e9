#!/usr/bin/env bash
# One would guess: in eval mode, without a cache, a model's logits for a prompt are a function of the prompt.
# Seen: with rope_type "dynamic" (NTK scaling by length) they also depend on which prompts ran before. The rotary module
#   keeps the frequencies of the longest prompt it has met; a prompt that is longer than the trained length, but shorter
#   than that one, is rotated with them. Only a prompt within the trained length resets them.
# Means: two scripts that run the same prompts in another order get other numbers. Compare such models one prompt at a
#   time, each after a short prompt, or set the frequencies per prompt.
# With: transformers 5.22.2 (modeling_rope_utils.dynamic_rope_update), torch 2.13.0, on PyPI.
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
rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=16, rope_parameters=rope,
)
model = LlamaForCausalLM(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        weight.data *= 6
tokens = torch.randint(0, 64, (1, 60))
short, middle, long = tokens[:, :8], tokens[:, :24], tokens


def logits(prompt):
    with torch.no_grad():
        return model(prompt, use_cache=False).logits[0, -1]


first = logits(middle)
logits(long)
after_long = logits(middle)
logits(short)
after_short = logits(middle)
print("24 tokens, trained length 16: the same after a long prompt:", torch.allclose(first, after_long, atol=1e-4))
print("24 tokens, trained length 16: the same after a short prompt:", torch.equal(first, after_short))
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
24 tokens, trained length 16: the same after a long prompt: False
24 tokens, trained length 16: the same after a short prompt: True
SEEN
