#!/usr/bin/env bash
# One would guess: where config.json says `tie_word_embeddings: true`, the output head is the embedding, whatever else
#   the weights file holds.
# Seen: true of transformers 4.57. Version 5.22 keeps a `lm_head.weight` that differs from the embedding, with one line
#   in the log, while the configuration still says tied. `resize_token_embeddings` then ties after all: the saved head
#   is gone.
# Means: one folder is two models, by the version that reads it, and in version 5 a third after a resize. What the
#   configuration says is no evidence; compare `lm_head.weight` with the embedding after loading.
# With: transformers 5.22.2 and 4.57.6 (modeling_utils.tie_weights), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
"$folder/venv/bin/python" -m pip install --quiet --target "$folder/older" transformers==4.57.6 numpy
cat > "$folder/write.py" <<'PY'
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
path = f"{sys.argv[1]}/model.safetensors"
weights = load_file(path)
assert "lm_head.weight" not in weights
save_file(weights | {"lm_head.weight": torch.randn(64, 32)}, path, metadata={"format": "pt"})
PY
cat > "$folder/read.py" <<'PY'
import sys

import torch
import transformers
from safetensors.torch import load_file

model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1])
saved = load_file(f"{sys.argv[1]}/model.safetensors")["lm_head.weight"]


def head():
    now = model.lm_head.weight
    if torch.equal(now[:64], saved):
        return "the saved one"
    return "the embedding" if torch.equal(now, model.model.embed_tokens.weight) else "neither"


tied = model.config.tie_word_embeddings
print(f"transformers {transformers.__version__}: configuration says tied: {tied}; head: {head()}")
model.resize_token_embeddings(70)
print(f"transformers {transformers.__version__}: after adding 6 tokens; head: {head()}")
PY
"$folder/venv/bin/python" "$folder/write.py" "$folder/model" 2>/dev/null
PYTHONPATH="$folder/older" "$folder/venv/bin/python" "$folder/read.py" "$folder/model" 2>/dev/null | tee "$folder/seen"
"$folder/venv/bin/python" "$folder/read.py" "$folder/model" 2>/dev/null | tee -a "$folder/seen"
diff "$folder/seen" - <<'SEEN'
transformers 4.57.6: configuration says tied: True; head: the embedding
transformers 4.57.6: after adding 6 tokens; head: the embedding
transformers 5.22.2: configuration says tied: True; head: the saved one
transformers 5.22.2: after adding 6 tokens; head: the embedding
SEEN
