#!/usr/bin/env bash
# One would guess: `model.load_adapter(folder)` of transformers and `PeftModel.from_pretrained(model, folder)` of PEFT
#   read the same adapter, as both go through PEFT's layers.
# Seen: for LoRA they agree. For DoRA, load_adapter puts the low-rank matrices in place but not the magnitude vectors,
#   although the file has them: it looks for "lora_magnitude_vector.default.weight" and finds
#   "lora_magnitude_vector.default". It logs the first as missing and the second as unexpected, raises nothing, and
#   keeps the magnitudes of an untrained adapter, which are the row norms of the base weights.
# Means: half of what was trained is gone, and the result still looks like a fine-tuned model. Load DoRA with
#   PeftModel, or read what load_adapter returns and stop if keys are missing.
# With: transformers 5.22.2 (integrations/peft.py), peft 0.21.2, torch 2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 peft==0.21.2 numpy
cat > "$folder/try.py" <<'PY'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)
base = f"{sys.argv[1]}/base"
LlamaForCausalLM(config).save_pretrained(base)
tokens = torch.randint(0, 64, (1, 12))


def read_base():
    return LlamaForCausalLM.from_pretrained(base).eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(tokens).logits


for kind, dora in (("LoRA", False), ("DoRA", True)):
    trained = get_peft_model(read_base(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=dora))
    for name, value in trained.named_parameters():
        if "lora_B" in name:
            value.data.normal_()
        elif "magnitude" in name:
            value.data *= 3
    adapter = f"{sys.argv[1]}/{kind}"
    trained.save_pretrained(adapter)
    right = logits(trained)
    model = read_base()
    said = model.load_adapter(adapter)
    by_peft = torch.allclose(right, logits(PeftModel.from_pretrained(read_base(), adapter)), atol=1e-4)
    print(f"{kind}: PeftModel gives the trained logits: {by_peft}")
    print(f"{kind}: load_adapter gives the trained logits: {torch.allclose(right, logits(model), atol=1e-4)}")

in_file = [name for name in load_file(f"{adapter}/adapter_model.safetensors") if "magnitude" in name]
print(f"magnitude vectors: {len(in_file)} in the file,", end=" ")
print(f"{len(said.unexpected_keys)} called unexpected, {len(said.missing_keys)} called missing")
layer = model.model.layers[0].self_attn.q_proj
norms = layer.base_layer.weight.norm(dim=1)
now = layer.lora_magnitude_vector["default"].weight
print("magnitudes are those of an untrained adapter:", torch.allclose(now, norms))
PY
"$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
LoRA: PeftModel gives the trained logits: True
LoRA: load_adapter gives the trained logits: True
DoRA: PeftModel gives the trained logits: True
DoRA: load_adapter gives the trained logits: False
magnitude vectors: 4 in the file, 4 called unexpected, 4 called missing
magnitudes are those of an untrained adapter: True
SEEN
