"""Tiny GGUF files, written with GGUF's own package: a random Llama, its weights in blocks, and a word list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnsight_et.tasks.boxes import LABELS, OBJECTS
from tests.helpers.tiny_model import hf_llama

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,"
WORDS = ["The", "the", "is", "in", "Box", "contains", *OBJECTS, *LABELS]
LAYERS, HEADS, KV_HEADS, D_HEAD = 2, 4, 2, 16


def vocabulary() -> list[str]:
    """Special tokens, bytes, letters, and every beginning of a word: merges that lead to it are made from these."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    beginnings = [f"▁{word[:end]}" for word in WORDS for end in range(1, len(word) + 1)]
    return list(dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_, "▁", *LETTERS, *beginnings]))


def write_gguf(
    path: Path,
    *,
    kind: str = "Q8_0",
    adds_bos: bool | None = True,
    tensors: dict[str, np.ndarray] | None = None,
    said: Callable[[Any], object] | None = None,
) -> Any:
    """Write a random model to `path`, matrices as `kind`; the model before that. `said` adds to what the file says."""
    from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map
    from gguf.quants import quantize

    tokens = vocabulary()
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": D_HEAD}
    model = hf_llama(layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, vocab_size=len(tokens), **sizes)
    writer, stored = GGUFWriter(str(path), "llama"), GGMLQuantizationType[kind]
    writer.add_context_length(128)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(D_HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) for token in tokens])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    if said is not None:
        said(writer)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS)
    for name, value in model.state_dict().items():
        stem, _, end = name.rpartition(".")
        array = _rotated(stem, value.numpy())
        place = f"{names.get_name(stem)}.{end}"
        if array.ndim == 2:
            writer.add_tensor(place, quantize(array, stored), raw_dtype=stored)
        else:
            writer.add_tensor(place, array)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _rotated(stem: str, array: np.ndarray) -> np.ndarray:
    """Queries and keys in the order of llama.cpp: it rotates neighbours, where transformers rotates halves."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(stem.rpartition(".")[2])
    if heads is None:
        return array
    return array.reshape(heads, 2, len(array) // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
