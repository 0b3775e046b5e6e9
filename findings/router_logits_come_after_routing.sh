#!/usr/bin/env bash
# One would guess: a hook on a mixture's router that sets one expert's logits to a very low number switches that expert
#   off, as router logits decide which experts a token goes to. `output_router_logits` shows what was decided.
# Seen: true of transformers 4.57, whose router gives logits alone. In version 5 the router itself takes the softmax and
#   the top experts, and gives logits, weights and indices together. A hook that edits the logits, in place or not,
#   changes no output at all: nothing reads them any more. `output_router_logits` still shows the edited ones, in which
#   the expert is off.
# Means: ablating or steering experts through their logits finds that no expert matters, and the log of router logits
#   seems to prove that the intervention took hold. Edit weights and indices, or the router's weight or input.
# With: transformers 5.22.2 and 4.57.6 (models/qwen3_moe, alike mixtral, olmoe, qwen2_moe, gpt_oss), torch 2.13.0, on
#   PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
"$folder/venv/bin/python" -m pip install --quiet --target "$folder/older" transformers==4.57.6 numpy
cat > "$folder/try.py" <<'PY'
import torch
import transformers
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

OFF = 0
torch.manual_seed(0)
config = Qwen3MoeConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
)
model = Qwen3MoeForCausalLM(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        weight.data *= 6
tokens = torch.randint(0, 64, (1, 12))
gates = [layer.mlp.gate for layer in model.model.layers]


def logits(**settings):
    with torch.no_grad():
        return model(tokens, **settings)


def switch_off(module, inputs, output):
    (output[0] if isinstance(output, tuple) else output)[..., OFF] = -1e9
    return output


def avoid_direction(module, inputs):
    """Moves the router's input until the expert's logit is far below the others."""
    row = module.weight[OFF]
    return (inputs[0] - 1e3 * row / row.norm() ** 2,)


before = logits().logits
hooks = [gate.register_forward_hook(switch_off) for gate in gates]
output = logits(output_router_logits=True)
for hook in hooks:
    hook.remove()
version = transformers.__version__
print(f"{version}: router gives a tuple: {isinstance(gates[0](torch.zeros(1, 32)), tuple)}")
print(f"{version}: output_router_logits shows expert off: {bool((output.router_logits[0][:, OFF] < -1e8).all())}")
print(f"{version}: the model's logits are those without the hook: {torch.equal(before, output.logits)}")
hooks = [gate.register_forward_pre_hook(avoid_direction) for gate in gates]
print(f"{version}: the same by a hook on the router's input: {torch.equal(before, logits().logits)}")
PY
for path in "$folder/older" ""; do
    PYTHONPATH="$path" "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
4.57.6: router gives a tuple: False
4.57.6: output_router_logits shows expert off: True
4.57.6: the model's logits are those without the hook: False
4.57.6: the same by a hook on the router's input: False
5.22.2: router gives a tuple: True
5.22.2: output_router_logits shows expert off: True
5.22.2: the model's logits are those without the hook: True
5.22.2: the same by a hook on the router's input: False
SEEN
