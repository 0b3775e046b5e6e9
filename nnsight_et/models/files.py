"""From a model's name to its files: folders of this machine, or a snapshot from the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from nnsight_et.errors import UnsupportedModel
from nnsight_et.models.named import ModelSpec, is_hub_id

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
DESCRIBING = ("*.json", "tokenizer.model")
FILES = (*WEIGHTS, *DESCRIBING)
READ_SIZE = 1 << 24


@dataclass(frozen=True)
class Files:
    """A model's folders on this machine, and a digest of what is in them."""

    name: str
    weights: Path
    adapter: Path | None
    tokenizer: Path
    fingerprint: str


def found(name: str, spec: ModelSpec, weights_too: bool = True) -> Files:
    """The model's files, fetched from the hub if they are not here; UnsupportedModel if there are none.

    Unless `weights_too`, the hub is only asked for what says how the model is made, and weights need not be here: the
    fingerprint is then of that, of the weights in folders of this machine, and of the hub's commits.
    """
    wanted = FILES if weights_too else DESCRIBING
    weights = _folder(name, spec.path, spec.revision, wanted)
    _check_files(name, weights, "config.json", weights_too)
    adapter = _folder(name, spec.adapter, spec.adapter_revision, wanted) if spec.adapter else None
    if adapter:
        _check_files(name, adapter, "adapter_config.json", weights_too)
    tokenizer = _folder(name, spec.tokenizer, None, DESCRIBING) if spec.tokenizer else weights
    digest = blake2b(digest_size=16)
    for place, folder in ((spec.path, weights), (spec.adapter, adapter)):
        if place and folder and not weights_too and not Path(place).expanduser().is_dir():
            digest.update(f"{place}@{folder.name}:".encode())
    for folder in (weights, adapter, tokenizer):
        for path in sorted({path for pattern in FILES for path in folder.glob(pattern)} if folder else ()):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as file:
                while block := file.read(READ_SIZE):
                    digest.update(block)
        digest.update(b"/")
    return Files(name, weights, adapter, tokenizer, digest.hexdigest())


def described(name: str, spec: ModelSpec, here: bool = False) -> Files:
    """The model's folders without a look at its weights, so without a fingerprint; from the hub no weights are fetched.

    If they are to be `here` already, nothing is. UnsupportedModel if it has no configuration.
    """
    weights = _folder(name, spec.path, spec.revision, DESCRIBING, here)
    _check_config(name, weights, "config.json")
    tokenizer = _folder(name, spec.tokenizer, None, DESCRIBING, here) if spec.tokenizer else weights
    return Files(name, weights, None, tokenizer, "")


def check_no_code(name: str, folder: Path, config: str) -> None:
    """Raise UnsupportedModel if a .json file of the folder asks for programs that came with the weights (auto_map).

    To be asked where transformers has no class of its own for what is there: otherwise they are not needed, nor run.
    """
    try:
        wanted = json.loads((folder / config).read_bytes())["auto_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    entries = wanted.values() if isinstance(wanted, dict) else [wanted]
    classes = [one for entry in entries for one in (entry if isinstance(entry, list) else [entry])]
    programs = sorted({f"{one.rpartition('.')[0].replace('--', '/')}.py" for one in classes if isinstance(one, str)})
    raise UnsupportedModel(
        f"{name}: {folder / config} asks to run {', '.join(programs)[:200]!a}, which nnsight_et never does; accepted: "
        "a model and tokenizer of an architecture that transformers itself has"
    )


def _folder(name: str, place: str, revision: str | None, patterns: tuple[str, ...] = FILES, here: bool = False) -> Path:
    try:
        local = Path(place).expanduser()
        if local.is_dir():
            return local
    except (OSError, RuntimeError) as error:  # longer than a path can be, or ~ of nobody
        raise UnsupportedModel(
            f"{name}: no folder {place[:200]} ({first_line(error)[:200]}); accepted: a model's folder"
        ) from None
    if not is_hub_id(place):
        raise UnsupportedModel(f"{name}: no folder {place}; accepted: a model's folder, or a hub id such as org/name")
    try:
        wanted = list(patterns)
        return Path(
            huggingface_hub.snapshot_download(place, revision=revision, allow_patterns=wanted, local_files_only=here)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if here:
            raise UnsupportedModel(f"{name}: the files of '{place}' are not on this machine yet") from None
        raise UnsupportedModel(
            f"{name}: no folder {place}, and the hub cannot give '{place}' ({first_line(error)}); accepted: a local "
            f"folder (in a manifest, models: {{{name}: {{path: FOLDER}}}}), or a hub id with a network"
        ) from error


def _check_config(name: str, folder: Path, config: str) -> None:
    if not (folder / config).is_file():
        raise UnsupportedModel(f"{name}: no {config} in {folder}; accepted: a folder in Hugging Face format")


def _check_files(name: str, folder: Path, config: str, weights_too: bool) -> None:
    _check_config(name, folder, config)
    if weights_too and not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise UnsupportedModel(f"{name}: no weights in {folder}; accepted: {' or '.join(WEIGHTS)}")


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
