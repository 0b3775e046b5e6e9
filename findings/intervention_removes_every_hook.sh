#!/usr/bin/env bash
# One would guess: pyvene puts hooks on a model for the time of a call and takes those away again. Hooks of one's own
#   stay, as do those by which transformers records hidden states.
# Seen: before and after every call it removes all forward hooks of all modules of the model, whoever put them there. A
#   hook of one's own runs neither during the intervention nor ever again; its handle looks as before. transformers puts
#   its recording hooks in place once and believes they stay: from then on `output_hidden_states=True` gives the last
#   state alone, and `output_attentions=True` an empty tuple. No error, no warning.
# Means: a probe, a steering hook or a cache beside pyvene silently sees nothing, and hidden_states[5] is out of range
#   or, with [-1], the only one. Put hooks on again after each call; read hidden states from a model of its own.
# With: pyvene 0.1.8 (models/modeling_utils.py: remove_forward_hooks), transformers 5.22.2
#   (utils/output_capturing.py), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy matplotlib
"$folder/venv/bin/python" -m pip install --quiet --no-deps pyvene==0.1.8
cat > "$folder/try.py" <<'PY'
import contextlib
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

with contextlib.redirect_stdout(sys.stderr):  # it says that nnsight is not there
    import pyvene

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, attn_implementation="eager",
)
model = LlamaForCausalLM(config).eval()
base, source = torch.randint(3, 64, (2, 1, 8))
calls = []
model.model.layers[3].register_forward_hook(lambda *_: calls.append(1))


def look(title):
    calls.clear()
    with torch.no_grad():
        outcome = model(base, output_hidden_states=True, output_attentions=True)
    print(f"{title}: own hook ran {len(calls)} times,", end=" ")
    print(f"{len(outcome.hidden_states)} hidden states, attention of {len(outcome.attentions)} layers")


look("before")
place = {"layer": 0, "component": "block_output", "unit": "pos"}
swapping = pyvene.IntervenableModel(place, model=model)
look("pyvene's model made")
calls.clear()
with torch.no_grad():
    swapping({"input_ids": base}, [{"input_ids": source}], unit_locations={"sources->base": 3})
print(f"in the intervention: own hook ran {len(calls)} times")
look("after one intervention")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
before: own hook ran 1 times, 5 hidden states, attention of 4 layers
pyvene's model made: own hook ran 1 times, 5 hidden states, attention of 4 layers
in the intervention: own hook ran 0 times
after one intervention: own hook ran 0 times, 1 hidden states, attention of 0 layers
SEEN
