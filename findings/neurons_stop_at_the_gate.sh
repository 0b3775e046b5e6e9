#!/usr/bin/env bash
# One would guess: pyvene's component "mlp_activation" is the MLP's neurons, what the last matrix multiplies. Swapping
#   all of it for another prompt's does what swapping "mlp_output" does; as in GPT-2.
# Seen: in Llama, Mistral, Qwen 2 and Gemma it is the activation function's output, which is one factor of two: the
#   gate. The other factor, `up_proj`, stays that of the base prompt. Swapping all of "mlp_activation" gives a third
#   result, neither base nor swap. There is no name for the product; a path to `down_proj`'s input gives it.
# Means: neuron interventions and alignments (DAS) on these models move half of a neuron, so a variable that is in the
#   MLP can look absent, and results are not comparable with GPT-2's or with TransformerLens' hook_post, which is the
#   product. Give "model.layers[0].mlp.down_proj.input".
# With: pyvene 0.1.8 (models/*/modelings_intervenable_*.py), transformers 5.22.2, torch 2.13.0, on PyPI.
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
from transformers import (
    AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config,
)

with contextlib.redirect_stdout(sys.stderr):  # it says that nnsight is not there
    import pyvene

LENGTH = 8
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
configs = {
    "GPT-2": GPT2Config(**GPT2), "Llama": LlamaConfig(**SIZES), "Mistral": MistralConfig(**SIZES),
    "Qwen 2": Qwen2Config(**SIZES), "Gemma": GemmaConfig(**SIZES, head_dim=8),
}
base, source = torch.randint(3, 64, (2, 1, LENGTH), generator=torch.Generator().manual_seed(0))


def swap(model, component):
    place = {"layer": 0, "component": component, "unit": "pos", "intervention_type": pyvene.VanillaIntervention}
    swapping = pyvene.IntervenableModel(place, model=model)
    where = {"sources->base": list(range(LENGTH))}
    with torch.no_grad():
        return swapping({"input_ids": base}, [{"input_ids": source}], unit_locations=where)[1].logits


for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    with torch.no_grad():
        plain = model(base).logits
    output, neurons = swap(model, "mlp_output"), swap(model, "mlp_activation")
    same = torch.allclose(neurons, output, atol=1e-4)
    print(f"{name}: swapping mlp_activation: as swapping mlp_output {same},", end=" ")
    print("as swapping nothing", torch.allclose(neurons, plain, atol=1e-4), end="")
    if name != "GPT-2":
        product = swap(model, "model.layers[0].mlp.down_proj.input")
        print("; down_proj.input: as mlp_output", torch.allclose(product, output, atol=1e-4), end="")
    print()
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
GPT-2: swapping mlp_activation: as swapping mlp_output True, as swapping nothing False
Llama: swapping mlp_activation: as swapping mlp_output False, as swapping nothing False; down_proj.input: as mlp_output True
Mistral: swapping mlp_activation: as swapping mlp_output False, as swapping nothing False; down_proj.input: as mlp_output True
Qwen 2: swapping mlp_activation: as swapping mlp_output False, as swapping nothing False; down_proj.input: as mlp_output True
Gemma: swapping mlp_activation: as swapping mlp_output False, as swapping nothing False; down_proj.input: as mlp_output True
SEEN
