#!/usr/bin/env bash
# One would guess: a decoder layer is causal by itself. Called again by hand with the hidden states it had, it gives the
#   output it gave; or without a mask it is bidirectional, whatever computes its attention.
# Seen: without a mask, sdpa layers are causal and eager layers are bidirectional, because sdpa takes a missing mask of
#   a causal module for a causal one and eager for none. Both run and log nothing. sdpa layers with a sliding window are
#   causal but have lost the window. With a prompt of one token all agree.
# Means: recomputing one layer (path patching, a frozen-norm re-run, a patchscope) under "eager" lets every token read
#   later ones; the same lines are right under "sdpa", the default, for full attention alone. Check first that the
#   unchanged input gives the unchanged output, or make the mask by create_causal_mask.
# With: transformers 5.22.2 (integrations/sdpa_attention.py, eager_attention_forward), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
tokens = torch.randint(0, 64, (1, 8), generator=torch.Generator().manual_seed(0))
configs = {"Llama": LlamaConfig(**SIZES), "Mistral, window 3": MistralConfig(**SIZES, sliding_window=3)}


def run_alone(layer, positions, hidden):
    """Output of the layer, and the tokens whose output changes with that of the last token."""
    changed = hidden.clone()
    changed[0, -1] += 1
    with torch.no_grad():
        first, second = (layer(value, position_embeddings=positions) for value in (hidden, changed))
    moved = (first - second).abs().amax(dim=-1)[0] > 1e-4
    return first, moved.nonzero().flatten().tolist()


for name, config in configs.items():
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data *= 6
        layer, seen = model.model.layers[0], []
        hook = layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        for length in (1, 3, 8):
            with torch.no_grad():
                model(tokens[:, :length])
            hidden, usual = seen.pop()
            positions = model.model.rotary_emb(hidden, torch.arange(length)[None])
            again, moved = run_alone(layer, positions, hidden)
            seen.clear()
            same = torch.allclose(again, usual, atol=1e-4)
            print(f"{name}, {implementation}, {length} tokens: as in the model: {same};", end=" ")
            print("the last token's input moves the outputs at", *moved)
        hook.remove()
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Llama, sdpa, 1 tokens: as in the model: True; the last token's input moves the outputs at 0
Llama, sdpa, 3 tokens: as in the model: True; the last token's input moves the outputs at 2
Llama, sdpa, 8 tokens: as in the model: True; the last token's input moves the outputs at 7
Llama, eager, 1 tokens: as in the model: True; the last token's input moves the outputs at 0
Llama, eager, 3 tokens: as in the model: False; the last token's input moves the outputs at 0 1 2
Llama, eager, 8 tokens: as in the model: False; the last token's input moves the outputs at 0 1 2 3 4 5 6 7
Mistral, window 3, sdpa, 1 tokens: as in the model: True; the last token's input moves the outputs at 0
Mistral, window 3, sdpa, 3 tokens: as in the model: True; the last token's input moves the outputs at 2
Mistral, window 3, sdpa, 8 tokens: as in the model: False; the last token's input moves the outputs at 7
Mistral, window 3, eager, 1 tokens: as in the model: True; the last token's input moves the outputs at 0
Mistral, window 3, eager, 3 tokens: as in the model: False; the last token's input moves the outputs at 0 1 2
Mistral, window 3, eager, 8 tokens: as in the model: False; the last token's input moves the outputs at 0 1 2 3 4 5 6 7
SEEN
