#!/usr/bin/env bash
# One would guess: giving a model its own causal mask in four dimensions changes nothing: layers with a sliding window
#   still apply it, as it belongs to the layer.
# Seen: the window exists only in the mask that transformers would have made. A mask of four dimensions is handed to
#   every layer as it is, so sliding layers see all of the past. Nothing is logged. A mask of two dimensions, or none,
#   keeps the window. Where kinds of layers alternate, a dictionary with a mask for each is taken, and is right.
# Means: a knockout that blocks one pair of tokens by such a mask also opens, in every sliding layer, all that lies
#   further back than the window, and the difference is put down to the pair. It starts at 129 tokens for gpt-oss and at
#   513 for the smallest Gemma 3. Put the window into the mask, and compare with a run under the same mask unblocked.
# With: transformers 5.22.2 (masking_utils), torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GptOssConfig, LlamaConfig, MistralConfig

WINDOW, LENGTH = 4, 12
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}
KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
configs = {
    "Llama, no window": LlamaConfig(**SIZES),
    "Mistral": MistralConfig(**SIZES, sliding_window=WINDOW),
    "Gemma 3": Gemma3TextConfig(**SIZES, **KINDS),
    "gpt-oss": GptOssConfig(**SIZES, **KINDS, num_local_experts=4, num_experts_per_tok=2),
}
tokens = torch.randint(0, 64, (1, LENGTH), generator=torch.Generator().manual_seed(0))
lowest = torch.finfo(torch.float32).min
past = torch.ones(1, 1, LENGTH, LENGTH).tril().bool()
near = past & past.new_ones(LENGTH, LENGTH).triu(1 - WINDOW)
full, windowed = (torch.zeros(past.shape).masked_fill(~seen, lowest) for seen in (past, near))
ways = {
    "two dimensions": torch.ones_like(tokens), "four dimensions": full, "four with the window": windowed,
    "one per kind of layer": {"full_attention": full, "sliding_attention": windowed},
}
for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    with torch.no_grad():
        usual = model(tokens).logits
        for way, mask in ways.items():
            if isinstance(mask, dict) and name in ("Llama, no window", "Mistral"):
                continue
            same = torch.allclose(model(tokens, attention_mask=mask).logits, usual, atol=1e-4)
            print(f"{name}: a causal mask of {way}: logits as without: {same}")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
Llama, no window: a causal mask of two dimensions: logits as without: True
Llama, no window: a causal mask of four dimensions: logits as without: True
Llama, no window: a causal mask of four with the window: logits as without: False
Mistral: a causal mask of two dimensions: logits as without: True
Mistral: a causal mask of four dimensions: logits as without: False
Mistral: a causal mask of four with the window: logits as without: True
Gemma 3: a causal mask of two dimensions: logits as without: True
Gemma 3: a causal mask of four dimensions: logits as without: False
Gemma 3: a causal mask of four with the window: logits as without: False
Gemma 3: a causal mask of one per kind of layer: logits as without: True
gpt-oss: a causal mask of two dimensions: logits as without: True
gpt-oss: a causal mask of four dimensions: logits as without: False
gpt-oss: a causal mask of four with the window: logits as without: False
gpt-oss: a causal mask of one per kind of layer: logits as without: True
SEEN
