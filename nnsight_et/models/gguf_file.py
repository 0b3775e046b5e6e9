"""GGUF files: what they say of their model and tokenizer, and whether transformers reads all of that."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import transformers
from tokenizers import processors
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.failures import reading_files

ROPE = "rope_freqs.weight"  # what llama.cpp divides the frequencies by: transformers 5.22 does not read it
RULER = 1e-6  # relative: GGUF has single precision


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself: values by their names, without lists, and tensors by their names."""

    values: dict[str, Any]
    sizes: dict[str, int]
    """How many numbers each tensor has."""
    kind: str
    """How they are stored: Q4_K_M, or F16."""
    divisors: tuple[float, ...]
    """Those of rope_freqs.weight."""

    @property
    def architecture(self) -> str:
        """GGUF's name for it, which all its sizes begin with."""
        return str(self.values.get("general.architecture", ""))


def check_package(name: str) -> None:
    """Raise UnsupportedModel if the package that reads GGUF files is not installed."""
    if find_spec("gguf") is None:
        raise UnsupportedModel(
            f"{name}: reading a GGUF file needs another package; accepted: run pip install 'nnsight-et[gguf]' first"
        )


def header(name: str, path: Path) -> Header:
    """What the file says; UnsupportedModel if it is none, one of several parts, or the package for it is missing."""
    check_package(name)
    with reading_files(lambda reason: f"{name}: {path} cannot be read ({reason}); accepted: a whole GGUF file"):
        status = path.stat()
        read = _header(path, status.st_mtime_ns, status.st_size)
    if int(read.values.get("split.count", 0)) > 1:
        found = f"{name}: {path} is one of {read.values['split.count']} parts of a GGUF file"
        raise UnsupportedModel(f"{found}; accepted: a whole one (llama.cpp's gguf-split --merge)")
    return read


@cache
def _header(path: Path, _changed: int, _size: int) -> Header:
    from gguf import GGUFReader, GGUFValueType, LlamaFileType  # an extra

    reader = GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items() if field.types[:1] != [GGUFValueType.ARRAY]}
    sizes = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    counts = Counter[str]()
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    names = {int(one): one.name.removeprefix("MOSTLY_").removeprefix("ALL_") for one in LlamaFileType}
    kind = names.get(values.get("general.file_type", -1)) or (
        counts.most_common(1)[0][0] if counts else "without weights"
    )
    divisors = [float(number) for tensor in reader.tensors if tensor.name == ROPE for number in tensor.data.ravel()]
    return Header(values, sizes, kind, tuple(divisors))


def quantization_note(name: str, path: Path) -> str:
    """What the weights were before they were read, for reports."""
    kind = header(name, path).kind
    return f"GGUF {kind}" if kind in ("F32", "F16", "BF16") else f"GGUF {kind}, dequantised"


def read_configuration(name: str, path: Path) -> PretrainedConfig:
    """The model's configuration, from what the file says; UnsupportedModel if transformers leaves some of it out.

    LOADING_ERRORS if it cannot be read at all.
    """
    check_package(name)
    status = path.stat()
    config = copy.deepcopy(_configuration(path, status.st_mtime_ns, status.st_size))
    _check_read(name, path, config)
    return config


@cache
def _configuration(path: Path, _changed: int, _size: int) -> PretrainedConfig:
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)  # seconds, each time


@contextmanager
def without_bars() -> Iterator[None]:
    """Where transformers 5 unpacks a GGUF file, it draws a progress bar that no setting of it turns off."""
    with redirect_stderr(StringIO()):
        yield


def dequantising() -> dict[str, Any]:
    """What from_pretrained is asked for so that weights become plain numbers, where it can also leave them packed."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _check_read(name: str, path: Path, config: PretrainedConfig) -> None:
    """Raise UnsupportedModel if the file says something of its model that transformers leaves out of the configuration.

    The numbers would be those of another model.
    """
    read = header(name, path)
    for key, there, taken in _settings(read, config.get_text_config()):
        found = f"{name}: {path.name} says {key}: {there}, but transformers reads {taken}"
        raise UnsupportedModel(
            f"{found}, so the model would be a different one; accepted: the model in Hugging Face format"
        )
    if any(number != 1 for number in read.divisors):
        found = f"{name}: {path.name} has scaled rotary frequencies ({ROPE}), which transformers does not read"
        raise UnsupportedModel(f"{found}; accepted: the model in Hugging Face format")


def _settings(read: Header, text: Any) -> Iterator[tuple[str, Any, Any]]:
    """The settings that the file and the configuration disagree about: key, the file's value, the configuration's."""
    rope = getattr(text, "rope_parameters", None) or {}
    rope = rope.get("full_attention") or rope
    heads = max(getattr(text, "num_attention_heads", 1), 1)
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    window = getattr(text, "sliding_window", None)
    longest = getattr(text, "max_position_embeddings", None)
    known = {
        "rope.freq_base": rope.get("rope_theta"),
        "rope.dimension_count": round(width * rope.get("partial_rotary_factor", 1.0)),
        "attention.key_length": width,
        "attention.sliding_window": window,
        "attn_logit_softcapping": getattr(text, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(text, "final_logit_softcapping", None),
    }
    for key, taken in known.items():
        there = read.values.get(f"{read.architecture}.{key}")
        if there is None or (taken is None and (not there or (longest and there >= longest and "window" in key))):
            continue
        if taken is None or abs(there - taken) > RULER * abs(there):
            yield key, there, taken
    scaling = read.values.get(f"{read.architecture}.rope.scaling.type", "none")
    if scaling not in ("none", rope.get("rope_type")):
        yield "rope.scaling.type", scaling, rope.get("rope_type")


def check_all_read(name: str, path: Path, module: PreTrainedModel) -> None:
    """Raise UnsupportedModel if the file has more numbers than the model: transformers drops what it does not know."""
    read = header(name, path)
    there = sum(size for tensor, size in read.sizes.items() if tensor != ROPE)
    taken = sum(parameter.numel() for parameter in module.parameters())
    if there != taken:
        odd = _without_place(read, module)
        such = f", such as {odd[0]}" if odd else ""
        found = (
            f"{name}: {path.name} has {there:,} numbers, but transformers makes a model with {taken:,} of them{such}"
        )
        raise UnsupportedModel(f"{found}; accepted: the model in Hugging Face format")


def _without_place(read: Header, module: PreTrainedModel) -> list[str]:
    """Tensors that GGUF's own list of names gives to no parameter of the model; experts, which lie together, aside."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kinds = {text: kind for kind, text in MODEL_ARCH_NAMES.items()}
    layers = module.config.get_text_config().num_hidden_layers
    if read.architecture not in kinds:
        return []
    names, known = get_tensor_name_map(kinds[read.architecture], layers), set()
    for parameter in module.state_dict():
        stem, _, end = parameter.rpartition(".")
        known.add(f"{names.get_name(stem)}.{end}")
    return sorted(tensor for tensor in read.sizes if tensor not in known and "_exps" not in tensor and tensor != ROPE)


def tokenizer_in(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the file describes; a text begins with the beginning-of-text token if the file says so.

    transformers 5.22 does not read what it says, so Gemma's lost theirs; 5.24 does.
    """
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    adds, bos = header(path.name, path).values.get("tokenizer.ggml.add_bos_token"), tokenizer.bos_token_id
    begins = bos is not None and tokenizer("")["input_ids"][:1] == [bos]
    if adds is None or bos is None or adds == begins:
        return tokenizer
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    tokenizer.add_bos_token = adds
    if adds and before is not None:  # of byte-level tokenizers, it keeps character offsets true
        backend.post_processor = processors.Sequence([before, backend.post_processor])
    return tokenizer
