#!/usr/bin/env bash
# One would guess: `bridge(prompts, padding_side="left")` and `bridge(bridge.to_tokens(prompts, padding_side="left"))`
#   are the same, the second only in two steps; HookedTransformer, where padding is on the left, finds it in tokens by
#   itself.
# Seen: from strings TransformerBridge masks the padding and counts positions from the first word, and each prompt is as
#   alone. From tokens it does neither: all prompts shorter than the longest attend to their padding, and positions
#   start there. `padding_side="left"` beside tokens is taken and has no effect; setting it on the tokenizer has none
#   either. Nothing is logged. An attention_mask beside tokens is right. Right padding is right, as nothing looks ahead.
# Means: the usual way, to_tokens and then run_with_cache, patches and caches other activations for short prompts, and
#   effects depend on who else is in the batch. Give the mask with the tokens, or strings every time.
# With: transformer-lens 4.3.0 (TransformerBridge.forward), transformers 5.22.2, torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 transformer-lens==4.3.0
cat > "$folder/try.py" <<'PY'
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

ENDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
configs = {
    "GPT-2": GPT2Config(**ENDS, n_embd=32, n_layer=2, n_head=4),
    "Llama": LlamaConfig(
        **ENDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    ),
}
words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 64)}
split = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=split, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>",
    padding_side="left",
)
prompts = ["w5 w6 w7", "w8 w9 w10 w11 w12 w13 w14"]
for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    path = f"{sys.argv[1]}/{name}"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    bridge = TransformerBridge.boot_transformers(path, device="cpu")
    tokens = bridge.to_tokens(prompts, padding_side="left")
    mask = (tokens != 0).long()
    with torch.no_grad():
        alone = bridge(prompts[0])[0, -1]
        ways = {
            "strings": bridge(prompts, padding_side="left"),
            "tokens": bridge(tokens),
            "tokens, padding_side": bridge(tokens, padding_side="left"),
            "tokens, run_with_cache": bridge.run_with_cache(tokens)[0],
            "tokens, attention_mask": bridge(tokens, attention_mask=mask),
        }
        bridge.tokenizer.padding_side = "left"
        ways["tokens, tokenizer.padding_side"] = bridge(tokens)
    print(f"{name}: the short prompt in the batch:", *tokens[0].tolist())
    for way, logits in ways.items():
        same = torch.allclose(logits[0, -1], alone, atol=1e-4)
        print(f"{name}: {way}: last logits of the short prompt as alone: {same}")
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
GPT-2: the short prompt in the batch: 0 0 0 0 1 5 6 7
GPT-2: strings: last logits of the short prompt as alone: True
GPT-2: tokens: last logits of the short prompt as alone: False
GPT-2: tokens, padding_side: last logits of the short prompt as alone: False
GPT-2: tokens, run_with_cache: last logits of the short prompt as alone: False
GPT-2: tokens, attention_mask: last logits of the short prompt as alone: True
GPT-2: tokens, tokenizer.padding_side: last logits of the short prompt as alone: False
Llama: the short prompt in the batch: 0 0 0 0 1 5 6 7
Llama: strings: last logits of the short prompt as alone: True
Llama: tokens: last logits of the short prompt as alone: False
Llama: tokens, padding_side: last logits of the short prompt as alone: False
Llama: tokens, run_with_cache: last logits of the short prompt as alone: False
Llama: tokens, attention_mask: last logits of the short prompt as alone: True
Llama: tokens, tokenizer.padding_side: last logits of the short prompt as alone: False
SEEN
