#!/usr/bin/env bash
# One would guess: with a forward hook that changes a layer's output, `output_hidden_states=True` returns the changed
#   output, or always the original one. Running the same lines twice gives the same.
# Seen: the first run returns the changed state and the second the original, though the logits show that the hook
#   worked in both. transformers records states and attention weights by forward hooks of its own. It installs them the
#   first time a model is asked for either, and never removes them. Hooks run in order of registration: those that
#   were there before are recorded, those that come later are not.
# Means: norms, probes or a logit lens at the steered or patched layer depend on whether any earlier call asked for
#   hidden states or attentions, so a notebook's cells give other numbers in another order. The layer after it is right
#   every time. Ask for hidden states once before any hook, and expect originals; or record by a hook of your own.
# With: transformers 5.22.2 (utils/output_capturing.py), torch 2.13.0, on PyPI.
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
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2,
)
model = LlamaForCausalLM(config).eval()
model.set_attn_implementation("eager")
tokens = torch.randint(0, 64, (1, 6))
steer = torch.randn(32)
layer = model.model.layers[0]
with torch.no_grad():
    plain = model(tokens).logits


def shows(changed, original, recorded):
    if torch.allclose(recorded, changed, atol=1e-5):
        return "the changed value"
    return "the original" if torch.allclose(recorded, original, atol=1e-5) else "neither"


def run_steered(title):
    given, handed_on = [], []

    def add(module, inputs, output):
        given.append(output)
        return output + steer

    hooks = [layer.register_forward_hook(add)]
    hooks.append(model.model.layers[1].register_forward_pre_hook(lambda module, inputs: handed_on.append(inputs[0])))
    with torch.no_grad():
        output = model(tokens, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(output.logits, plain, atol=1e-3)
    assert torch.allclose(handed_on[0], given[0] + steer)
    print(f"{title}: hidden_states[1] is", shows(handed_on[0], given[0], output.hidden_states[1]))
    return output


first = run_steered("first run")
second = run_steered("second run")
print("logits of both runs are the same:", torch.equal(first.logits, second.logits))
print("hidden_states[2] of both runs are the same:", torch.equal(first.hidden_states[2], second.hidden_states[2]))

weights = []


def even_out(module, inputs, output):
    weights.append(output[1])
    return output[0], torch.full_like(output[1], 0.5)


layer.self_attn.register_forward_hook(even_out)
with torch.no_grad():
    recorded = model(tokens, output_attentions=True).attentions[0]
halves = torch.full_like(recorded, 0.5)
print("a later hook on attention weights: attentions[0] is", shows(halves, weights[0], recorded))
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
first run: hidden_states[1] is the changed value
second run: hidden_states[1] is the original
logits of both runs are the same: True
hidden_states[2] of both runs are the same: True
a later hook on attention weights: attentions[0] is the original
SEEN
