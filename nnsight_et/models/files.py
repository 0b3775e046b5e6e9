"""From a model's name to its files: folders of this machine, or a snapshot from the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.adapters import CONFIG, check_no_adapter, check_words, read_settings
from nnsight_et.models.catalog import ModelSpec, is_hub_id
from nnsight_et.models.failures import first_line
from nnsight_et.models.stored import check_has, check_not_quantized, or_gguf

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
DESCRIBING = ("*.json", "tokenizer.model")
FILES = (*WEIGHTS, *DESCRIBING)
VOCABULARIES = ("merges.txt", "vocab.txt", "bpe.codes", "*.tiktoken", "*.model", "*.model.*")
"""What a tokenizer is made from where there is no tokenizer.json; beside one, transformers does not read them."""
FETCHED = (*DESCRIBING, *VOCABULARIES, "*.jinja", "additional_chat_templates/*.jinja")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LFS, ANNEX = b"version https://git-lfs.github.com/spec/", b"/annex/objects/"  # how their pointers begin
READ_SIZE = 1 << 24


@dataclass(frozen=True)
class Files:
    """A model's folders on this machine, and a digest of what is in them."""

    name: str
    weights: Path
    adapter: Path | None
    tokenizer: Path
    """A folder; or the GGUF file, where the tokenizer is made from what that says."""
    fingerprint: str
    gguf: Path | None = None
    """The file of `weights` that has them, where that is a GGUF file."""
    bos: Literal["add", "none"] | None = None
    """Whether texts begin with BOS, where the tokenizer is not to decide."""
    chat: bool | str | None = None
    """Whether prompts are turns of a chat, by the tokenizer's own template; or a template's name, or its text."""


def download_files(name: str, spec: ModelSpec, weights_too: bool = True) -> Files:
    """The model's files, fetched from the hub if they are not here; UnsupportedModel if there are none.

    Unless `weights_too`, the hub is only asked for what says how the model is made, and weights need not be here: the
    fingerprint is then of that, of the weights in folders of this machine, and of the hub's commits.
    """
    _check_revisions(name, spec)
    if spec.gguf:
        return _download_gguf(name, spec, spec.gguf, weights_too)
    wanted = (*WEIGHTS, *FETCHED) if weights_too else FETCHED
    weights = _folder(name, spec.path, spec.revision, wanted)
    _check_files(name, weights, "config.json", weights_too)
    if weights_too:
        check_not_quantized(name, weights)
    adapter = _adapter(name, spec, weights, weights_too)
    tokenizer = _folder(name, spec.tokenizer, None, FETCHED) if spec.tokenizer else weights
    digest = blake2b(digest_size=16)
    for place, folder in ((spec.path, weights), (spec.adapter, adapter)):
        if place and folder and not weights_too and not Path(place).expanduser().is_dir():
            digest.update(f"{place}@{folder.name}:".encode())
    _add(digest, name, _matching(weights, FILES) | _indexed_files(weights))
    _add(digest, name, _matching(adapter, FILES) if adapter else ())
    _add(digest, name, _matching(tokenizer, FILES) | _vocabulary(tokenizer))
    return Files(name, weights, adapter, tokenizer, digest.hexdigest(), bos=spec.bos, chat=spec.chat)


def describe_files(name: str, spec: ModelSpec, here: bool = False) -> Files:
    """The model's folders without a look at its weights, so without a fingerprint; from the hub no weights are fetched.

    If they are to be `here` already, nothing is. UnsupportedModel if it has no configuration.
    """
    _check_revisions(name, spec)
    if spec.gguf:
        return _describe_gguf(name, spec, spec.gguf)
    weights = _folder(name, spec.path, spec.revision, FETCHED, here)
    _check_config(name, weights, "config.json")
    check_not_quantized(name, weights)
    adapter = _adapter(name, spec, weights, weights_too=False, here=here)
    tokenizer = _folder(name, spec.tokenizer, None, FETCHED, here) if spec.tokenizer else weights
    for folder in (weights, tokenizer):
        for path in _matching(folder, DESCRIBING) | _vocabulary(folder):
            next(_content(name, path), None)
    return Files(name, weights, adapter, tokenizer, "", bos=spec.bos, chat=spec.chat)


def _adapter(name: str, spec: ModelSpec, weights: Path, weights_too: bool, here: bool = False) -> Path | None:
    """The adapter's folder; UnsupportedModel if it is of a kind, or has a tokenizer, that cannot be used as it is."""
    if not spec.adapter:
        return None
    wanted = (*WEIGHTS, *FETCHED) if weights_too else FETCHED
    adapter = _folder(name, spec.adapter, spec.adapter_revision, wanted, here)
    _check_files(name, adapter, CONFIG, weights_too)
    for path in _matching(adapter, FILES):
        next(_content(name, path), None)
    read_settings(adapter, name)
    if not spec.tokenizer:
        check_words(adapter, weights, name)
    return adapter


def check_no_gguf(name: str, spec: ModelSpec) -> None:
    """Raise UnsupportedModel if a server could not read the model's weights."""
    if spec.gguf:
        found = f"{name}: gguf: {spec.gguf} can only be read on this machine, not on a server"
        raise UnsupportedModel(f"{found}; accepted: backend: local, or a model in Hugging Face format")


def _download_gguf(name: str, spec: ModelSpec, gguf: str, weights_too: bool) -> Files:
    """The files of a model whose weights are in a GGUF file: of that folder, only this file and a tokenizer count."""
    if not weights_too:
        check_no_gguf(name, spec)
    folder = _folder(name, spec.path, spec.revision, (gguf, *FETCHED))
    files, digest = _gguf_files(name, spec, folder, gguf, weights_too), blake2b(digest_size=16)
    tokenizer = (
        _matching(files.tokenizer, DESCRIBING) | _vocabulary(files.tokenizer) if files.tokenizer.is_dir() else ()
    )
    for paths in ([folder / gguf], _matching(files.adapter, FILES) if files.adapter else (), tokenizer):
        _add(digest, name, paths)
    return replace(files, fingerprint=digest.hexdigest())


def _describe_gguf(name: str, spec: ModelSpec, gguf: str) -> Files:
    """Those files, without a fingerprint; UnsupportedModel if they are on the hub alone, for it tells all."""
    folder = Path(spec.path).expanduser()
    if not folder.is_dir() and is_hub_id(spec.path):
        cached = huggingface_hub.try_to_load_from_cache(spec.path, gguf, revision=spec.revision)
        if not isinstance(cached, str):
            found = f"{name}: {gguf} of {spec.path} is not here, and only the file itself describes its model"
            raise UnsupportedModel(f"{found}; accepted: run hf download {spec.path} {gguf} first")
        folder = Path(cached.removesuffix(gguf))
    else:
        folder = _folder(name, spec.path, spec.revision)
    return _gguf_files(name, spec, folder, gguf, weights_too=False)


def _gguf_files(name: str, spec: ModelSpec, folder: Path, gguf: str, weights_too: bool) -> Files:
    """The files of a model with that GGUF file in its folder, without a fingerprint.

    The tokenizer is that of the manifest, else in files beside the weights, else in the GGUF file itself.
    """
    file = folder / gguf
    if not (file.is_file() or file.is_symlink()):
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise UnsupportedModel(f"{name}: no {gguf} in {folder}; accepted: a GGUF file in it ({there})")
    check_no_adapter(folder, name)
    next(_content(name, file), None)
    adapter = _adapter(name, spec, folder, weights_too)
    beside = folder if has_tokenizer(folder) else file
    tokenizer = _folder(name, spec.tokenizer, None, FETCHED) if spec.tokenizer else beside
    return Files(name, folder, adapter, tokenizer, "", file, spec.bos, spec.chat)


def _matching(folder: Path, patterns: Sequence[str]) -> set[Path]:
    """The folder's files of these patterns, and links that lead nowhere."""
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    return {path for path in paths if path.is_file() or (path.is_symlink() and not path.exists())}


def has_tokenizer(folder: Path) -> bool:
    """Whether there are files that a tokenizer is made from."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")) or bool(_vocabulary(folder))


def _vocabulary(folder: Path) -> set[Path]:
    """The files a tokenizer is made from, where there is no tokenizer.json."""
    return set() if (folder / "tokenizer.json").is_file() else _matching(folder, VOCABULARIES)


def _indexed_files(folder: Path) -> set[Path]:
    """Files of weights that an index names, whatever they are called."""
    paths = set()
    for index in INDEXES:
        try:
            names = json.loads((folder / index).read_bytes())["weight_map"].values()
            paths |= {folder / name for name in names if (folder / name).is_file()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # loading says what is wrong with it
    return paths


def _add(digest: blake2b, name: str, paths: set[Path] | Sequence[Path]) -> None:
    """Add the files' names and contents, in order, and an end."""
    for path in sorted(paths):
        content = _content(name, path)
        digest.update(f"{path.name}:{path.stat().st_size}:".encode() if path.exists() else b"")
        for block in content:
            digest.update(block)
    digest.update(b"/")


def _content(name: str, path: Path) -> Iterator[bytes]:
    """The file's bytes; UnsupportedModel where what is there only stands for a file that was not fetched."""
    if path.is_symlink() and not path.exists():
        fetch = "git annex get" if "annex/objects" in os.readlink(path) else "fetch it"
        raise UnsupportedModel(f"{name}: {path} is a link to a file that is not here; accepted: the file ({fetch})")
    try:
        with path.open("rb") as file:
            block = file.read(READ_SIZE)
            if block.startswith(LFS):
                raise UnsupportedModel(
                    f"{name}: {path} is a Git LFS pointer, not the file itself; accepted: the file (git lfs pull)"
                )
            if block.startswith(ANNEX):
                raise UnsupportedModel(
                    f"{name}: {path} is a git-annex pointer, not the file itself; accepted: the file (git annex get)"
                )
            if not block and path.suffix in (".safetensors", ".bin", ".gguf"):
                raise UnsupportedModel(f"{name}: {path} is empty; accepted: the whole file")
            while block:
                yield block
                block = file.read(READ_SIZE)
    except OSError as error:
        raise UnsupportedModel(f"{name}: {path} cannot be read ({first_line(error)}); accepted: the file") from error


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
    if not programs:
        return
    raise UnsupportedModel(
        f"{name}: {folder / config} asks to run {', '.join(programs)[:200]!a}, which nnsight_et never does; accepted: "
        "a model and tokenizer of an architecture that transformers itself has"
    )


def _check_revisions(name: str, spec: ModelSpec) -> None:
    """Raise UnsupportedModel for a revision beside a folder, which has one content; `ndif` may have its own."""
    of_model = ("revision", None if spec.ndif else spec.revision, spec.path)
    for key, revision, place in (of_model, ("adapter_revision", spec.adapter_revision, spec.adapter)):
        if revision and place and _local(name, place):
            found = f"{key} is '{revision}', but {place} is a local folder, which has no revisions"
            raise UnsupportedModel(f"{name}: {found}; accepted: no {key}, or a hub id")


def _local(name: str, place: str) -> Path | None:
    """The folder of this machine that is meant; None if there is none; UnsupportedModel if there cannot be one."""
    try:
        folder = Path(place).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError) as error:  # longer than a path can be, or ~ of nobody
        raise UnsupportedModel(
            f"{name}: no folder {place[:200]} ({first_line(error)[:200]}); accepted: a model's folder"
        ) from None


def _folder(
    name: str, place: str, revision: str | None, patterns: tuple[str, ...] = FETCHED, here: bool = False
) -> Path:
    if local := _local(name, place):
        return local
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
            f"{name}: no folder {place}, and '{place}' cannot be fetched from the hub ({first_line(error)}); accepted: "
            f"a local folder (in a manifest, models: {{{name}: {{path: FOLDER}}}}), or a hub id with a network"
        ) from error


def _check_config(name: str, folder: Path, config: str) -> None:
    if config != CONFIG:
        check_no_adapter(folder, name)
    check_has(name, folder, config)


def _check_files(name: str, folder: Path, config: str, weights_too: bool) -> None:
    _check_config(name, folder, config)
    if weights_too and not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        also = or_gguf(folder)
        raise UnsupportedModel(f"{name}: no weights in {folder}; accepted: {' or '.join(WEIGHTS)}{also}")
