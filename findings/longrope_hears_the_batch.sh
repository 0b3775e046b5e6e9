#!/usr/bin/env bash
# One would guess: with padding masked and positions counted from each prompt's first token, a prompt's logits do not
#   depend on its neighbours in the batch.
# Seen: with rope_type "longrope" (Phi-3, Phi-4-mini) they do. One set of frequencies serves the whole batch, and its
#   longest prompt chooses it: as soon as one is longer than `original_max_position_embeddings`, the short ones are
#   rotated with the long factors as well. A neighbour below that length changes nothing.
# Means: batch size and the order of a data set change results. Run short and long prompts of such models in separate
#   batches, and never compare a prompt alone with the same prompt in a mixed batch.
# With: transformers 5.22.2 (modeling_rope_utils.longrope_frequency_update takes torch.max(position_ids)), torch 2.13.0,
#   on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import Phi3Config, Phi3ForCausalLM

PAD = 0
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0, 4.0, 8.0, 16.0],
}
torch.manual_seed(0)
eight, twelve, twenty_four = (torch.randint(3, 64, (length,)).tolist() for length in (8, 12, 24))


def logits(model, *prompts):
    """Those at the last token of the first prompt; all prompts are padded on the left."""
    length = max(len(prompt) for prompt in prompts)
    tokens = torch.tensor([[PAD] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = (tokens != PAD).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits[0, -1]


for rope in ({"rope_type": "default", "rope_theta": 10000.0}, LONGROPE):
    config = Phi3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=rope,
        pad_token_id=PAD, bos_token_id=1, eos_token_id=2,
    )
    model = Phi3ForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    alone = logits(model, eight)
    for name, neighbour in (("12", twelve), ("24", twenty_four)):
        unchanged = torch.allclose(alone, logits(model, eight, neighbour), atol=1e-3)
        print(f"{rope['rope_type']}: 8 tokens beside {name}, original length 16: as alone: {unchanged}")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
default: 8 tokens beside 12, original length 16: as alone: True
default: 8 tokens beside 24, original length 16: as alone: True
longrope: 8 tokens beside 12, original length 16: as alone: True
longrope: 8 tokens beside 24, original length 16: as alone: False
SEEN
