#!/usr/bin/env bash
# One would guess: patching the residual of an earlier token in a middle or late layer can change the answer, as later
#   layers attend to that token: what a layer there writes at the subject of a sentence is read by the last token.
# Seen: not in a Gemma 4 whose configuration has `num_kv_shared_layers`: that many last layers take keys and values of an
#   earlier layer, made before the patch. From the layer below them on, the residual of any token but the last is a dead
#   end: with noise in its place the logits after the last token are the same, bit for bit. Further below, and without
#   sharing, the same noise changes them.
# Means: causal tracing, residual patching and ablations by position show exact zeros in those layers that look like "the
#   model does not use it", and averages over positions are diluted. Look at `num_kv_shared_layers` first.
# With: transformers 5.22.2 and 5.24.0 (models/gemma4/modeling_gemma4.py, Gemma4TextAttention), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
"$folder/venv/bin/python" -m pip install --quiet --target "$folder/newer" transformers==5.24.0 numpy
cat > "$folder/try.py" <<'PY'
import torch
import transformers
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

LAYERS, TOKENS = 6, 10


def changes(shared):
    """Per layer, whether noise over the residual that leaves it, at all tokens but the last, changes the logits."""
    torch.manual_seed(0)
    model = Gemma4ForCausalLM(Gemma4TextConfig(
        vocab_size=64, vocab_size_per_layer_input=64, hidden_size=32, hidden_size_per_layer_input=8,
        intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        global_head_dim=16, initializer_range=0.3, num_kv_shared_layers=shared,
        layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2),
    )).eval()
    tokens, found = torch.randint(0, 64, (1, TOKENS)), []
    with torch.no_grad():
        before = model(tokens).logits[0, -1]
        for layer in model.model.layers[:-1]:
            noise = torch.randn(1, TOKENS - 1, 32)
            hook = layer.register_forward_hook(lambda module, args, output: torch.cat([noise, output[:, -1:]], 1))
            found.append(not torch.equal(model(tokens).logits[0, -1], before))
            hook.remove()
    return found


for shared in (0, 3):
    print(f"{transformers.__version__}, {shared} of {LAYERS} layers shared: noise after layers 0 to 4 is heard: {changes(shared)}")
PY
for path in "" "$folder/newer"; do
    PYTHONPATH="$path" "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
5.22.2, 0 of 6 layers shared: noise after layers 0 to 4 is heard: [True, True, True, True, True]
5.22.2, 3 of 6 layers shared: noise after layers 0 to 4 is heard: [True, True, False, False, False]
5.24.0, 0 of 6 layers shared: noise after layers 0 to 4 is heard: [True, True, True, True, True]
5.24.0, 3 of 6 layers shared: noise after layers 0 to 4 is heard: [True, True, False, False, False]
SEEN
