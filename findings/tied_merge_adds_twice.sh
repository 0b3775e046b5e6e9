#!/usr/bin/env bash
# One would guess: `merge_and_unload` leaves a model's function as it is; and where PEFT warns that a LoRA on a tied
#   embedding is in trouble because `ensure_weight_tying` is off, turning that on helps.
# Seen: neither. Unmerged, a LoRA on `embed_tokens` changes only what goes in, and the head stays as it was. Merging
#   adds the update to the one matrix that both share, so the head moves too. With `ensure_weight_tying=True` the
#   adapter acts on both, and merging adds the same update to the shared matrix once for each: twice in all.
# Means: numbers of a merged model are not those of the model that was trained, with either setting. Before merging,
#   load the base with `tie_word_embeddings=False` and copy the embedding into the head; or do not merge.
# With: peft 0.21.2 (tuners/lora, LoraConfig.ensure_weight_tying), transformers 5.22.2, torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 peft==0.21.2 numpy
cat > "$folder/try.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def merge(*, tied, ensure):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )
    base = LlamaForCausalLM(config).eval()
    before = base.model.embed_tokens.weight.detach().clone()
    tokens = torch.randint(0, 64, (1, 12))
    settings = LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=ensure)
    adapted = get_peft_model(base, settings).eval()
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data.normal_(std=0.2)
    with torch.no_grad():
        update = base.model.embed_tokens.get_delta_weight("default").clone()
        unmerged = adapted(tokens).logits
        merged = adapted.merge_and_unload()
        kept = torch.allclose(unmerged, merged(tokens).logits, atol=1e-3)
        times = [n for n in (1, 2) if torch.allclose(merged.model.embed_tokens.weight, before + n * update, atol=1e-4)]
    print(f"tied: {tied}, ensure_weight_tying: {ensure}: merging keeps the logits: {kept}; update added: {times[0]}x")


merge(tied=False, ensure=False)
merge(tied=True, ensure=False)
merge(tied=True, ensure=True)
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
tied: False, ensure_weight_tying: False: merging keeps the logits: True; update added: 1x
tied: True, ensure_weight_tying: False: merging keeps the logits: False; update added: 1x
tied: True, ensure_weight_tying: True: merging keeps the logits: False; update added: 2x
SEEN
