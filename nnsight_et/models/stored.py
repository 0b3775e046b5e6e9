"""How a model's weights are stored, read from config.json. Imports no torch, because validate and plan need it too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.catalog import ModelSpec, is_hub_id

KEYS = ("quantization_config", "compression_config")
"""The second is what compressed-tensors wrote before 2025."""


def check_stored(name: str, spec: ModelSpec) -> None:
    """Raise UnsupportedModel if the model's folder holds none, or a quantized one; the latter also in the hub's cache.

    Anything else that may be wrong with it is said when it is read.
    """
    folder = None if spec.gguf else _folder(spec)
    if folder is None:
        return
    if _is_folder(spec.path) and not (folder / "adapter_config.json").is_file():
        check_has(name, folder, "config.json")
    check_not_quantized(name, folder)


def check_has(name: str, folder: Path, config: str) -> None:
    """Raise UnsupportedModel if the model's or adapter's folder has no file `config`."""
    if not (folder / config).is_file():
        accept = f"a folder in Hugging Face format{or_gguf(folder)}"
        raise UnsupportedModel(f"{name}: no {config} in {folder}; accepted: {accept}")


def or_gguf(folder: Path) -> str:
    """How to ask for the GGUF files of a folder that has some."""
    files = sorted(path.name for path in folder.glob("*.gguf"))
    return f", or gguf: {' or '.join(files)} beside path in the manifest" if files else ""


def missing_folder(spec: ModelSpec) -> tuple[str, str] | None:
    """The first key of a model, and what it says, that can only be a folder of this machine and is none."""
    for key in ("path", "adapter", "tokenizer"):
        place = getattr(spec, key)
        if place and not is_hub_id(place) and not _is_folder(place):
            return key, place
    return None


def _is_folder(place: str) -> bool:
    try:
        return Path(place).expanduser().is_dir()
    except (OSError, RuntimeError):  # longer than a path can be, or ~ of nobody
        return False


def check_not_quantized(name: str, folder: Path) -> None:
    """Raise UnsupportedModel if config.json of the folder says that its weights are quantized."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # whoever reads it says what is wrong with it
    stored = quantization_of(config)
    if stored is None:
        return
    written, method = stored
    raise UnsupportedModel(
        f"{name}: its weights are quantized ({written}: {method}), and methods need them as plain numbers; accepted: "
        f"the same model in float32, bfloat16 or float16, or as a GGUF file (gguf: FILE.gguf in the manifest)"
    )


def quantization_of(config: Any) -> tuple[str, str] | None:
    """The key of a configuration that says so, and the method; None where there is none.

    Models with several parts say it of one.
    """
    if not isinstance(config, dict):
        return None
    for part in (config, *config.values()):
        for key in KEYS if isinstance(part, dict) else ():
            if part.get(key) is not None:
                return key, _method(part[key])
    return None


def _method(written: Any) -> str:
    """The name of a quantization: its method and, where written, its bits."""
    if not isinstance(written, dict):
        return ascii(written)[:60]
    method = written.get("quant_method") or written.get("format") or "no method named"
    bits = next((f"{count} bits" for count in (4, 8) if written.get(f"load_in_{count}bit")), None)
    number = written.get("bits") or written.get("w_bit") or written.get("nbits")
    bits = bits or (f"{number} bits" if isinstance(number, int) else None)
    return ", ".join(filter(None, (str(method)[:60], bits)))


def _folder(spec: ModelSpec) -> Path | None:
    """The model's folder on this machine, if it has one: the manifest's, or in the hub's cache."""
    if _is_folder(spec.path):
        return Path(spec.path).expanduser()
    if not is_hub_id(spec.path):
        return None
    repository = _cache() / f"models--{spec.path.replace('/', '--')}"
    revision = spec.revision or "main"
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        commit = revision
    return repository / "snapshots" / commit


def _cache() -> Path:
    """Where huggingface_hub keeps what it has fetched; by its own rule, as its import takes long."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(cache)).expanduser()
