#!/usr/bin/env bash
# One would guess: of `output_hidden_states=True`, number i is what enters layer i: 0 is the embedding, and the last,
#   number n of n layers, is what the head reads. With n + 1 states there is one for each.
# Seen: Mamba, Falcon-Mamba, Mamba 2 and RWKV also give n + 1 states, of the same shapes, and the last is what the head
#   reads; but they append after each layer. Number i is the output of layer i, and the embedding is missing, though the
#   documentation of Mamba's output names it first. Jamba, RecurrentGemma and xLSTM count as Llama does.
# Means: probes, logit lenses and similarities "by layer" are of other depths than they say when a Mamba stands beside a
#   transformer; a state put back in at its own number has one layer done twice; the baseline "embedding" is none. The
#   length, which one might check, is right. Take states by hooks, or compare number 0 with the embedding.
# With: transformers 5.22.2 and 5.24.0 (models/mamba, falcon_mamba, mamba2, rwkv: the model's forward), torch 2.13.0, on
#   PyPI.
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
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS = {
    "llama": HEADS,
    "jamba": HEADS | {"num_experts": 2, "attn_layer_offset": 1, "attn_layer_period": 2},
    "recurrent_gemma": HEADS | {"lru_width": 32},
    "xlstm": {"num_heads": 4},
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32},
}
tokens = torch.arange(1, 10)[None]
close = {"atol": 1e-5}

for name, settings in MODELS.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**SIZES, **settings)).eval()
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    head = model.get_output_embeddings()
    seen = {}

    def keep_layer(number):
        def keep(module, inputs, output):
            seen.setdefault("embedding", inputs[0].clone())
            seen[f"layer {number}"] = (output[0] if isinstance(output, tuple) else output).clone()

        return keep

    def keep_head_input(module, inputs):
        seen["head's input"] = inputs[0].clone()

    def put_in(module, inputs):
        return (states[2], *inputs[1:])

    hooks = [layer.register_forward_hook(keep_layer(number)) for number, layer in enumerate(layers)]
    hooks.append(head.register_forward_pre_hook(keep_head_input))
    with torch.no_grad():
        output = model(tokens, use_cache=False, output_hidden_states=True)
        states = output.hidden_states
        for hook in hooks:
            hook.remove()
        hook = layers[2].register_forward_pre_hook(put_in)
        again = model(tokens, use_cache=False).logits
        hook.remove()
    found = [next(place for place, value in seen.items() if torch.allclose(state, value, **close)) for state in states]
    print(f"{transformers.__version__}, {name}, {len(layers)} layers, {len(states)} states:", ", ".join(found))
    same = torch.allclose(again, output.logits, **close)
    print(f"    state 2 put in at layer 2 leaves the logits as they were: {same}")
PY
for path in "" "$folder/newer"; do
    PYTHONPATH="$path" "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
5.22.2, llama, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.22.2, jamba, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.22.2, recurrent_gemma, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.22.2, xlstm, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.22.2, mamba, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.22.2, falcon_mamba, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.22.2, mamba2, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.22.2, rwkv, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.24.0, llama, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.24.0, jamba, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.24.0, recurrent_gemma, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.24.0, xlstm, 4 layers, 5 states: embedding, layer 0, layer 1, layer 2, head's input
    state 2 put in at layer 2 leaves the logits as they were: True
5.24.0, mamba, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.24.0, falcon_mamba, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.24.0, mamba2, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
5.24.0, rwkv, 4 layers, 5 states: layer 0, layer 1, layer 2, layer 3, head's input
    state 2 put in at layer 2 leaves the logits as they were: False
SEEN
