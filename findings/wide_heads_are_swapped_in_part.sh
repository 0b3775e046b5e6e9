#!/usr/bin/env bash
# One would guess: pyvene's component "head_attention_value_output" with unit "h.pos" swaps the whole output of one
#   head, and "attention_value_output" that of all heads, in every model whose parts it has names for.
# Seen: it takes hidden_size / num_attention_heads for a head's width, and hidden_size for all heads together. Where
#   the configuration's head_dim is larger, the rest stays the base prompt's. In Llama and Mistral half of a head of
#   twice that width is swapped. In Gemma, Gemma 2 and Qwen 2 the head is whole, but of all heads together the upper
#   half stays. Indices are right, shapes fit, nothing is logged.
# Means: single heads of a Llama with wide heads (Llama 3.1 8B pruned in width: 32 heads of 128 at 3,072) look weaker
#   than they are, and all heads together miss some (Gemma 7B: 16 heads of 256 at 3,072; Gemma 2 9B: the same at
#   3,584). Give the module by its path, with unit "pos", and look how many columns have changed.
# With: pyvene 0.1.8 (models/*/modelings_intervenable_*.py: dimensions), transformers 5.22.2, torch 2.13.0, on PyPI.
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
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config

with contextlib.redirect_stdout(sys.stderr):  # it says that nnsight is not there
    import pyvene

HEADS, WIDTH, LAST = 4, 16, 7
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
configs = {
    "Llama, heads of 8": LlamaConfig(**SIZES, head_dim=8), "Llama, heads of 16": LlamaConfig(**SIZES, head_dim=WIDTH),
    "Mistral, heads of 16": MistralConfig(**SIZES, head_dim=WIDTH),
    "Gemma, heads of 16": GemmaConfig(**SIZES, head_dim=WIDTH),
    "Gemma 2, heads of 16": Gemma2Config(**SIZES, head_dim=WIDTH),
    "Qwen 2, heads of 16": Qwen2Config(**SIZES, head_dim=WIDTH),
}
base, source = torch.randint(3, 64, (2, 1, LAST + 1), generator=torch.Generator().manual_seed(0))
for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    out, seen = model.model.layers[0].self_attn.o_proj, {}
    forward = out.forward

    def enter(z, forward=forward, seen=seen):
        seen["z"] = z[0, LAST].clone()
        return forward(z)

    out.forward = enter  # no hook, as pyvene removes those

    def heads_of(run):
        with torch.no_grad():
            run()
        return seen["z"].unflatten(-1, (HEADS, -1))

    plain = heads_of(lambda: model(base))

    def changed(component, unit, where):
        swapping = pyvene.IntervenableModel({"layer": 0, "component": component, "unit": unit}, model=model)
        given = {"sources->base": (where, where)}
        after = heads_of(lambda: swapping({"input_ids": base}, [{"input_ids": source}], unit_locations=given))
        return (after != plain).sum(-1).tolist()

    print(f"{name}: columns of each head changed: one head", end=" ")
    print(changed("head_attention_value_output", "h.pos", [[[[1]], [[LAST]]]]), end="; all heads ")
    print(changed("attention_value_output", "pos", [[[LAST]]]), end="; by path ")
    print(changed("model.layers[0].self_attn.o_proj.input", "pos", [[[LAST]]]))
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Llama, heads of 8: columns of each head changed: one head [0, 8, 0, 0]; all heads [8, 8, 8, 8]; by path [8, 8, 8, 8]
Llama, heads of 16: columns of each head changed: one head [0, 8, 0, 0]; all heads [16, 16, 0, 0]; by path [16, 16, 16, 16]
Mistral, heads of 16: columns of each head changed: one head [0, 8, 0, 0]; all heads [16, 16, 0, 0]; by path [16, 16, 16, 16]
Gemma, heads of 16: columns of each head changed: one head [0, 16, 0, 0]; all heads [16, 16, 0, 0]; by path [16, 16, 16, 16]
Gemma 2, heads of 16: columns of each head changed: one head [0, 16, 0, 0]; all heads [16, 16, 0, 0]; by path [16, 16, 16, 16]
Qwen 2, heads of 16: columns of each head changed: one head [0, 16, 0, 0]; all heads [16, 16, 0, 0]; by path [16, 16, 16, 16]
SEEN
