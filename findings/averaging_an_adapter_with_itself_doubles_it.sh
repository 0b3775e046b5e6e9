#!/usr/bin/env bash
# One would guess: `add_weighted_adapter(..., combination_type="linear")` adds up the adapters' updates of the weights,
#   each times its weight; "svd", the default, does the same up to a small rest, as it keeps the adapters' rank.
# Seen: "linear" mixes the matrices A and the matrices B each for themselves, with the square roots of the weights. The
#   product has all cross terms: the average of an adapter with itself is twice the adapter, its sum with itself four
#   times, and of two unrelated ones it is mostly something else. "svd" cuts the sum, which has twice the rank, to the
#   rank of one. Only "cat" is the sum. Nothing is logged.
# Means: averages, sums and differences of adapters (task vectors, "minus one" controls, mean adapter) are about other
#   updates than said; a scale found to be best is a scale of something else. Use combination_type="cat", and compare
#   get_delta_weight with the sum.
# With: peft 0.21.2 (tuners/lora/model.py), transformers 5.22.2, torch 2.13.0, on PyPI.
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

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2,
)
settings = LoraConfig(r=4, target_modules=["q_proj"])
model = get_peft_model(LlamaForCausalLM(config), settings, adapter_name="one")
for name in ("same", "other"):
    model.add_adapter(name, settings)
layer = model.base_model.model.model.layers[0].self_attn.q_proj
for matrices in (layer.lora_A, layer.lora_B):
    for name in ("one", "other"):
        matrices[name].weight.data.normal_()
    matrices["same"].weight.data.copy_(matrices["one"].weight)
cases = [(("one", "same"), (0.5, 0.5)), (("one", "same"), (1.0, 1.0)), (("one", "other"), (1.0, -1.0))]
for kind in ("cat", "linear", "svd"):
    for number, (names, weights) in enumerate(cases):
        model.add_weighted_adapter(list(names), list(weights), f"{kind}{number}", combination_type=kind)
        made = layer.get_delta_weight(f"{kind}{number}")
        wanted = sum(weight * layer.get_delta_weight(name) for name, weight in zip(names, weights, strict=True))
        what = " ".join(f"{weight:+} {name}" for name, weight in zip(names, weights, strict=True))
        times = (made * wanted).sum() / (wanted * wanted).sum()
        rest = (made - times * wanted).norm() / wanted.norm()
        print(f"{kind}: {what}:", end=" ")
        print(f"{times:.1f} times the sum" if rest < 1e-3 else f"off by over a third: {bool(rest > 1 / 3)}")
PY
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
cat: +0.5 one +0.5 same: 1.0 times the sum
cat: +1.0 one +1.0 same: 1.0 times the sum
cat: +1.0 one -1.0 other: 1.0 times the sum
linear: +0.5 one +0.5 same: 2.0 times the sum
linear: +1.0 one +1.0 same: 2.0 times the sum
linear: +1.0 one -1.0 other: off by over a third: True
svd: +0.5 one +0.5 same: 1.0 times the sum
svd: +1.0 one +1.0 same: 1.0 times the sum
svd: +1.0 one -1.0 other: off by over a third: True
SEEN
