#!/usr/bin/env bash
# One would guess: TransformerLens' `get_full_resid_decomposition` gives parts that sum to the residual stream, and
#   `stack_head_results` gives heads that sum, with the bias, to `hook_attn_out`; as they do in GPT-2 and Llama.
# Seen: not in Gemma 2, Gemma 3 and OLMo 2, which normalise what attention and MLP give before it is added. There
#   `hook_attn_out` and `decompose_resid` are taken after that norm, but heads, neurons and biases before it: they have
#   another length and, by the norm's weight, another direction. Nothing is logged. It is so with and without
#   compatibility mode, which folds other norms into weights.
# Means: direct logit attribution by head or neuron is in no unit of these models' logits; heads of different layers
#   cannot be compared, and signs can be wrong. By layer it is right. Multiply a head's result by the post-norm's weight
#   over its cached scale, and check that the parts sum to the stream.
# With: transformer-lens 4.3.0 (ActivationCache, TransformerBridge), transformers 5.22.2, torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 transformer-lens==4.3.0
cat > "$folder/try.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig, Olmo2Config, PreTrainedTokenizerFast,
)

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 64)}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", bos_token="<s>",
    eos_token="</s>", unk_token="<pad>",
)
tokens = torch.randint(3, 64, (1, 10), generator=torch.Generator().manual_seed(0))
configs = {
    "Llama": LlamaConfig(**SIZES), "Gemma 2": Gemma2Config(**SIZES, head_dim=8),
    "Gemma 3": Gemma3TextConfig(**SIZES, head_dim=8), "OLMo 2": Olmo2Config(**SIZES),
}


def sums(parts, whole):
    return torch.allclose(parts.sum(dim=0), whole, atol=1e-3)


print("do they sum to the stream, and heads to the attention's output?")
for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for key, weight in model.named_parameters():
        weight.data = weight.data * 6 if weight.ndim > 1 else weight.data + torch.rand(weight.shape)
    path = f"{sys.argv[1]}/{name.replace(' ', '')}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    bridge = TransformerBridge.boot_transformers(path, device="cpu")
    for compatible in (False, True):
        if compatible:
            bridge.enable_compatibility_mode(disable_warnings=True)
        with torch.no_grad():
            _, cache = bridge.run_with_cache(tokens)
            stream = cache["blocks.1.hook_resid_post"]
            layers = cache.decompose_resid(mode="all")
            parts = cache.get_full_resid_decomposition(expand_neurons=False)
            heads = cache.stack_head_results(layer=1)
            attention = cache["blocks.0.hook_attn_out"]
            print(f"{name}, {'compatibility mode' if compatible else 'as loaded'}:", end=" ")
            print(f"decompose_resid {sums(layers, stream)}, full decomposition {sums(parts, stream)},", end=" ")
            print(f"heads {sums(heads, attention)}", end="")
            norm = getattr(bridge.blocks[0], "ln1_post", None)
            if norm is not None and not compatible:
                weight = norm.original_component.weight + (1 if name.startswith("Gemma") else 0)
                scaled = heads * weight / cache["blocks.0.ln1_post.hook_scale"]
                print(f", scaled by hand {sums(scaled, attention)}", end="")
            print()
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
do they sum to the stream, and heads to the attention's output?
Llama, as loaded: decompose_resid True, full decomposition True, heads True
Llama, compatibility mode: decompose_resid True, full decomposition True, heads True
Gemma 2, as loaded: decompose_resid True, full decomposition False, heads False, scaled by hand True
Gemma 2, compatibility mode: decompose_resid True, full decomposition False, heads False
Gemma 3, as loaded: decompose_resid True, full decomposition False, heads False, scaled by hand True
Gemma 3, compatibility mode: decompose_resid True, full decomposition False, heads False
OLMo 2, as loaded: decompose_resid True, full decomposition False, heads False, scaled by hand True
OLMo 2, compatibility mode: decompose_resid True, full decomposition False, heads False
SEEN
