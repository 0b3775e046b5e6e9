#!/usr/bin/env bash
# One would guess: a Llama read from a GGUF file rotates queries and keys as the same model read from its own folder.
# Seen: not with the "llama3" scaling of Llama 3.1 and later. GGUF keeps that scaling only as a tensor,
#   `rope_freqs.weight`, by which llama.cpp divides the frequencies. transformers drops the tensor: it is not even
#   among the unexpected keys, the configuration says rope_type "default", and the logits are those of the unscaled
#   model.
# Means: numbers from such a file belong to another model than the one that was trained, in short prompts too, since
#   the low frequencies are scaled at every position. Pass the model's own `config=`, or read the folder.
# With: transformers 5.22.2 (modeling_gguf_pytorch_utils.load_gguf_checkpoint), gguf 0.19.0, accelerate 1.15.0, torch
#   2.13.0, on PyPI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet transformers==5.22.2 gguf==0.19.0 accelerate==1.15.0 numpy
cat > "$folder/try.py" <<'PY'
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

folder = sys.argv[1]
LAYERS, HEADS, HEAD_SIZE, MLP, WORDS, LENGTH = 2, 4, 16, 96, 32, 256
WIDTH = HEADS * HEAD_SIZE
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def make(rope):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=LENGTH, rms_norm_eps=1e-5, rope_parameters=rope,
    )).eval()


torch.manual_seed(0)
scaled, plain = make(LLAMA3), make(PLAIN)
for weight in scaled.parameters():
    if weight.ndim > 1:
        weight.data *= 6
plain.load_state_dict(scaled.state_dict())
factors = (plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq).numpy()


def write(name, *, with_factors):
    file = gguf.GGUFWriter(f"{folder}/{name}", "llama")
    file.add_block_count(LAYERS)
    file.add_context_length(LENGTH)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(MLP)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(HEAD_SIZE)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(WORDS)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for key, value in scaled.state_dict().items():
        array = value.numpy()
        if "q_proj" in key or "k_proj" in key:  # llama.cpp rotates neighbours, transformers halves
            halves = array.reshape(HEADS, 2, HEAD_SIZE // 2, WIDTH)
            array = np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(WIDTH, WIDTH)
        file.add_tensor(names.get_name(key, (".weight",)), array)
    if with_factors:
        file.add_tensor("rope_freqs.weight", factors)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def read(name):
    return AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, output_loading_info=True
    )


tokens = torch.randint(0, WORDS, (1, 40))


def same(one, other):
    with torch.no_grad():
        return torch.allclose(one.eval()(tokens).logits, other.eval()(tokens).logits, atol=1e-3)


write("without.gguf", with_factors=False)
write("with.gguf", with_factors=True)
(without, _), (with_, info) = read("without.gguf"), read("with.gguf")
stored = [tensor.name for tensor in gguf.GGUFReader(f"{folder}/with.gguf").tensors]
print("rope_freqs.weight is in the file:", "rope_freqs.weight" in stored)
print("transformers calls it unexpected:", any("rope" in key for key in info["unexpected_keys"]))
print("rope_type of the configuration:", with_.config.rope_parameters["rope_type"])
print("logits with and without it are the same:", same(with_, without))
print("they are those of the unscaled model:", same(with_, plain))
print("they are those of the scaled model:", same(with_, scaled))
PY
"$folder/venv/bin/python" "$folder/try.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
rope_freqs.weight is in the file: True
transformers calls it unexpected: False
rope_type of the configuration: default
logits with and without it are the same: True
they are those of the unscaled model: True
they are those of the scaled model: False
SEEN
