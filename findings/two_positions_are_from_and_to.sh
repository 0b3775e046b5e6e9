#!/usr/bin/env bash
# One would guess: in pyvene `unit_locations={"sources->base": [3, 5]}` swaps positions 3 and 5, as [3] swaps position 3
#   and [3, 5, 6] swaps all three; and `{"base": [3, 5]}` sets two positions to a constant.
# Seen: a list of exactly two numbers means something else: from position 3 of the source to position 5 of the base.
#   Position 5 gets what position 3 should have got, and position 3 stays as it was. Where there is no source, in
#   {"base": [3, 5]}, the first number is ignored and position 5 alone is set. Nothing is logged.
# Means: whoever patches a list of positions has right numbers for one and for three, and another experiment for two,
#   such as a word of two tokens. Write it out: ([[[3, 5]]], [[[3, 5]]]) for one prompt, {"base": [[[3, 5]]]}.
# With: pyvene 0.1.8 (IntervenableModel._broadcast_unit_locations), transformers 5.22.2, torch 2.13.0, on PyPI.
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

LENGTH = 8
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)
model = LlamaForCausalLM(config).eval()
base, source = torch.randint(3, 64, (2, 1, LENGTH))
seen, later = {}, model.model.layers[1]
forward = later.forward


def enter(states, *args, **kwargs):
    """What enters the second layer, kept; no hook, as pyvene removes those."""
    seen["states"] = states[0].clone()
    return forward(states, *args, **kwargs)


later.forward = enter


def states_of(run):
    with torch.no_grad():
        run()
    return seen["states"]


plain, donor = (states_of(lambda tokens=tokens: model(tokens)) for tokens in (base, source))
place = {"layer": 0, "component": "block_output", "unit": "pos"}
for positions in ([3], [3, 5], [3, 5, 6], ([[[3, 5]]], [[[3, 5]]])):
    swapping = pyvene.IntervenableModel(place, model=model)
    where = {"sources->base": positions}
    after = states_of(lambda: swapping({"input_ids": base}, [{"input_ids": source}], unit_locations=where))
    pairs = [
        f"{j} -> {i}" for i in range(LENGTH) for j in range(LENGTH) if torch.allclose(after[i], donor[j], atol=1e-5)
    ]
    print(f"sources->base {positions}: source -> base", ", ".join(pairs))
for positions in ([3], [3, 5], [3, 5, 6], [[[3, 5]]]):
    setting = pyvene.IntervenableModel(place | {"source_representation": torch.zeros(32)}, model=model)
    after = states_of(lambda: setting({"input_ids": base}, unit_locations={"base": positions}))
    print(f"base {positions}: set to zero", [i for i in range(LENGTH) if not after[i].any()])
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
sources->base [3]: source -> base 3 -> 3
sources->base [3, 5]: source -> base 3 -> 5
sources->base [3, 5, 6]: source -> base 3 -> 3, 5 -> 5, 6 -> 6
sources->base ([[[3, 5]]], [[[3, 5]]]): source -> base 3 -> 3, 5 -> 5
base [3]: set to zero [3]
base [3, 5]: set to zero [5]
base [3, 5, 6]: set to zero [3, 5, 6]
base [[[3, 5]]]: set to zero [3, 5]
SEEN
