#!/usr/bin/env bash
# One would guess: `TransformerBridge.boot_transformers(name, hf_model=model)` looks at the model that it is given. The
#   model stays what it was: it can be saved, and what the bridge does to its weights happens to the bridge.
# Seen: the model's modules are put into the bridge's, in place. It still runs, now with eager attention; but none of the
#   names in its state_dict is what it was and tensors are there several times over. `save_pretrained` ends in an
#   error; a saved state_dict read with strict=False puts nothing in place. And `enable_compatibility_mode`, which folds
#   norms and centres weights, rewrites this model: its own logits are others (its probabilities are the same).
# Means: a fine-tuning that looks at the model by a bridge half-way cannot save it, and logits compared between "the
#   transformers model" and another one are centred without a word. Give the bridge a model of its own: the name alone,
#   or copy.deepcopy(model).
# With: transformer-lens 4.3.0 (model_bridge), transformers 5.22.2, torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 transformer-lens==4.3.0
cat > "$folder/try.py" <<'PY'
import copy
import sys

from transformer_lens.model_bridge import TransformerBridge

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

ENDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
configs = {
    "GPT-2": GPT2Config(**ENDS, n_embd=32, n_layer=2, n_head=4),
    "Llama": LlamaConfig(
        **ENDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    ),
}
words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 64)}
PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", bos_token="<s>",
    eos_token="</s>", unk_token="<pad>",
).save_pretrained(sys.argv[1])
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
tokens = torch.randint(3, 64, (1, 8), generator=torch.Generator().manual_seed(0))


def can(what):
    try:
        what()
    except RuntimeError:
        return False
    return True


def look(title, model, own, names):
    with torch.no_grad():
        logits = model(tokens).logits
    same = torch.allclose(logits, own, atol=1e-3)
    likely = torch.allclose(logits.log_softmax(-1), own.log_softmax(-1), atol=1e-3)
    print(f"{title}: {model.config._attn_implementation}, logits as before {same}, probabilities {likely},", end=" ")
    kept = len(names & set(model.state_dict()))
    saved = can(lambda: model.save_pretrained(f"{sys.argv[1]}/saved"))
    print(f"{kept} of {len(names)} names as before, can be saved {saved}")


for name, config in configs.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 6
    with torch.no_grad():
        own, names = model(tokens).logits, set(model.state_dict())
    for title, given in ((f"{name}, copied", copy.deepcopy(model)), (f"{name}, given itself", model)):
        bridge = TransformerBridge.boot_transformers("mine", hf_model=given, tokenizer=tokenizer, device="cpu")
        look(f"{title}, bridged", model, own, names)
        bridge.enable_compatibility_mode(disable_warnings=True)
        look(f"{title}, processed", model, own, names)
    other = AutoModelForCausalLM.from_config(config)
    missing = other.load_state_dict(model.state_dict(), strict=False).missing_keys
    print(f"{name}: of its state_dict another such model takes {len(names) - len(missing)} of {len(names)}")
PY
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
GPT-2, copied, bridged: sdpa, logits as before True, probabilities True, 29 of 29 names as before, can be saved True
GPT-2, copied, processed: sdpa, logits as before True, probabilities True, 29 of 29 names as before, can be saved True
GPT-2, given itself, bridged: eager, logits as before True, probabilities True, 0 of 29 names as before, can be saved False
GPT-2, given itself, processed: eager, logits as before False, probabilities True, 0 of 29 names as before, can be saved False
GPT-2: of its state_dict another such model takes 0 of 29
Llama, copied, bridged: sdpa, logits as before True, probabilities True, 21 of 21 names as before, can be saved True
Llama, copied, processed: sdpa, logits as before True, probabilities True, 21 of 21 names as before, can be saved True
Llama, given itself, bridged: eager, logits as before True, probabilities True, 0 of 21 names as before, can be saved False
Llama, given itself, processed: eager, logits as before False, probabilities True, 0 of 21 names as before, can be saved False
Llama: of its state_dict another such model takes 0 of 21
SEEN
