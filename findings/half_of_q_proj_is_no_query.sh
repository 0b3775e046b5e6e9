#!/usr/bin/env bash
# One would guess: `q_proj` of a layer gives the queries, head after head, so that columns h * head_dim to (h + 1) *
#   head_dim of its output are the query of head h. A patch there moves what the head attends to.
# Seen: in Qwen3-Next and Qwen3.5 it gives twice as many columns: of each head its query, then as many that gate its
#   output through a sigmoid. Head 1 of the guess is the gate of head 0: a change there leaves every attention weight as
#   it was, and scales the output of head 0; head 2 of the guess is the query of head 1. No slice is out of range, as
#   there are columns enough, and the right numbers of heads go through.
# Means: query patching, steering and LoRA analyses that slice q_proj by head_dim work on other heads than they say, and
#   half of the time on no query. The query of head h is columns 2 * h * head_dim to (2 * h + 1) * head_dim.
# With: transformers 5.22.2 (models/qwen3_next, qwen3_5: torch.chunk of q_proj's output per head), torch 2.13.0, on
#   PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

HEADS, WIDTH = 4, 8
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "head_dim": WIDTH, "initializer_range": 0.3, "attn_implementation": "eager",
}
torch.manual_seed(0)
cases = {
    "Qwen3": Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "Qwen3.5": Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, layer_types=["full_attention"])),
}
tokens = torch.randint(0, 64, (1, 8))


def run(model, columns=None):
    """Attention weights [head, query, key] and what enters o_proj [head, query, d], the columns of q_proj negated."""
    attention, kept, hooks = model.model.layers[0].self_attn, {}, []

    def negate(module, args, output):
        output = output.clone()
        output[..., columns] *= -1
        return output

    if columns is not None:
        hooks.append(attention.q_proj.register_forward_hook(negate))
    hooks.append(attention.o_proj.register_forward_pre_hook(lambda module, args: kept.update(z=args[0])))
    with torch.no_grad():
        weights = model(tokens, output_attentions=True).attentions[0][0]
    for hook in hooks:
        hook.remove()
    return weights, kept["z"][0].unflatten(-1, (HEADS, WIDTH)).transpose(0, 1)


for name, model in cases.items():
    model.eval()
    before = run(model)
    for head in range(HEADS):
        after = run(model, slice(head * WIDTH, (head + 1) * WIDTH))
        looks, writes = ([i for i in range(HEADS) if not torch.equal(one[i], other[i])] for one, other in zip(before, after))
        print(f"{name}: columns of head {head}: heads that look elsewhere {looks}, that write otherwise {writes}")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Qwen3: columns of head 0: heads that look elsewhere [0], that write otherwise [0]
Qwen3: columns of head 1: heads that look elsewhere [1], that write otherwise [1]
Qwen3: columns of head 2: heads that look elsewhere [2], that write otherwise [2]
Qwen3: columns of head 3: heads that look elsewhere [3], that write otherwise [3]
Qwen3.5: columns of head 0: heads that look elsewhere [0], that write otherwise [0]
Qwen3.5: columns of head 1: heads that look elsewhere [], that write otherwise [0]
Qwen3.5: columns of head 2: heads that look elsewhere [1], that write otherwise [1]
Qwen3.5: columns of head 3: heads that look elsewhere [], that write otherwise [1]
SEEN
