"""Whether a model has the parameters that its files hold: all of them, no others, and as plain numbers."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from nnsight_et.core.errors import UnsupportedModel, quantity

SINGLE, MANY = ("model.safetensors", "pytorch_model.bin"), ".index.json"
PLAIN = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # as safetensors calls them
COMPUTED = re.compile(r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids|version)$")
"""Numbers that earlier versions of transformers stored, and that are made from the configuration."""
MASKS = re.compile(r"\.(attn|attention|self_attn)\.(bias|masked_bias)$")
"""The same of GPT-2, GPT-J and GPT-NeoX: a causal mask and what it fills in; told from a true bias by their shape."""
QUANTIZED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|quant_state\..*|weight_packed|weight_shape|weight_scale|"
    r"weight_scale_inv|weight_zero_point|codebooks|codes)$|_(blocks|scales)$"
)
WRAPPERS = {"module.": "torch.nn.DataParallel", "_orig_mod.": "torch.compile"}
ACCEPTED = "accepted: exactly the weights that config.json describes"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, and what its numbers are."""

    shape: tuple[int, ...]
    dtype: str
    plain: bool
    """Whether they are floating-point numbers that mean what they say."""


def stored_tensors(name: str, folder: Path, config: PretrainedConfig) -> dict[str, StoredTensor]:
    """The tensors in the files that transformers reads of the folder; UnsupportedModel if a .bin file holds others.

    It raises LOADING_ERRORS where a file cannot be read.
    """
    stored = dict[str, StoredTensor]()
    for path in _files(name, folder, getattr(config, "transformers_weights", None)):
        stored |= dict(_in_bin(name, path) if path.suffix == ".bin" else _in_safetensors(path))
    return stored


def _files(name: str, folder: Path, named: str | None) -> list[Path]:
    """The files of weights, by the order in which transformers 5 looks for them."""
    for file in [named] if named else [single + end for single in SINGLE for end in ("", MANY)]:
        if (folder / file).is_file():
            return _shards(name, folder / file) if file.endswith(MANY) else [folder / file]
    return []


def _shards(name: str, index: Path) -> list[Path]:
    """The files that an index names; UnsupportedModel if it is no index, or one of them is not there."""
    content = json.loads(index.read_bytes())
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise UnsupportedModel(f"{name}: {index} does not say which file has which parameter; accepted: its weight_map")
    shards = [index.parent / place for place in sorted(set(places.values()))]
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        found = f"{name}: {index} names files that are missing ({', '.join(absent)[:200]})"
        raise UnsupportedModel(f"{found}; accepted: all the files of the model")
    return shards


def _in_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            part = file.get_slice(name)
            yield name, StoredTensor(tuple(part.get_shape()), part.get_dtype(), part.get_dtype() in PLAIN)


def _in_bin(name: str, path: Path) -> Iterator[tuple[str, StoredTensor]]:
    content: Any = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    odd = [f"{key}: {type(value).__name__}" for key, value in _entries(content) if not isinstance(value, Tensor)]
    if odd:
        found = f"{name}: {path} holds more than tensors by name ({', '.join(odd)[:100]})"
        raise UnsupportedModel(f"{found}; accepted: what torch.save(model.state_dict(), FILE) writes")
    for key, value in _entries(content):
        yield key, StoredTensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), value.is_floating_point())


def _entries(content: Any) -> Iterable[tuple[str, Any]]:
    return content.items() if isinstance(content, Mapping) else [(type(content).__name__, None)]


def check_parameters(
    name: str, stored: Mapping[str, StoredTensor], module: PreTrainedModel, report: Mapping[str, Any]
) -> None:
    """Raise UnsupportedModel unless the files hold what the model has: each parameter, of its size, and no other.

    `report` is what transformers says of the loading; what an architecture lets it leave out there is looked up in
    `stored`, for that may hide a parameter.
    """
    for key, there, wanted in sorted(report["mismatched_keys"]):
        found = f"{name}: {key} is {_size(there)} in its files, but {_size(wanted)} in config.json"
        raise UnsupportedModel(f"{found}; accepted: weights of the sizes that config.json describes")
    missing, surplus = sorted(report["missing_keys"]), _surplus(stored, module, report)
    parts = []
    if missing:
        parts.append(f"{_count(missing)} not in its files, such as {missing[0]}")
    if surplus:
        parts.append(f"{_count(surplus)} in its files that config.json has no place for, such as {surplus[0]}")
    if parts:
        raise UnsupportedModel(f"{name}: {', and '.join(parts)}{_hint(stored, surplus)}; {ACCEPTED}")
    strange = [key for key, one in stored.items() if not one.plain and not _is_computed(key, one)]
    if strange:
        found = f"{name}: {strange[0]} is stored as {stored[strange[0]].dtype}, so their scale must be stored elsewhere"
        raise UnsupportedModel(f"{found}; accepted: floating-point weights")


def _surplus(stored: Mapping[str, StoredTensor], module: PreTrainedModel, report: Mapping[str, Any]) -> list[str]:
    ignored = [re.compile(pattern) for pattern in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    own, prefix = module.state_dict().keys(), module.base_model_prefix
    placed = {key for key in stored if key in own or f"{prefix}.{key}" in own}  # saved without its head: no prefix
    hidden = {key for key in stored if key not in placed and any(pattern.search(key) for pattern in ignored)}
    keys = hidden | set(report["unexpected_keys"])
    return sorted(key for key in keys if not _is_computed(key, stored.get(key)))


def _is_computed(key: str, stored: StoredTensor | None) -> bool:
    """Whether a tensor is made from the configuration, so that a file need not hold it and nothing is lost with it."""
    if COMPUTED.search(key):
        return True
    if stored is None or not MASKS.search(f".{key}"):
        return False
    return stored.shape in ((), (1,)) or (len(stored.shape) == 4 and stored.shape[:2] == (1, 1))


def _hint(stored: Mapping[str, StoredTensor], surplus: list[str]) -> str:
    """What the names of a file's tensors say of how it was written."""
    for prefix, writer in WRAPPERS.items():
        if stored and all(key.startswith(prefix) for key in stored):
            return f" (all its names begin with {prefix!r}, as {writer} leaves them: save the model inside it)"
    if any(QUANTIZED.search(key) for key in surplus):
        return " (these are names of quantized weights)"
    return ""


def _count(names: list[str]) -> str:
    return f"{quantity(len(names), 'parameter')} {'are' if len(names) > 1 else 'is'}"


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
