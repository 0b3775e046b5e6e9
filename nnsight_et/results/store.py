"""Results and cells on disk.

Results: <root>/<manifest>/<plan digest>/<experiment>/{result.json, scores.safetensors}.
Cells: <root>/store/<two digits>/<key>.safetensors; beside them <key>.json, what was found of a model at first.
A folder or file that is there is complete; one that was damaged since is known by its digest.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, cast

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from nnsight_et.core.errors import ResultError
from nnsight_et.planning.plan import digest
from nnsight_et.results.disk import one_writer, read_json, remove, sweep, write_file, write_folder, write_json
from nnsight_et.results.headers import HEADER, ResultHeader, name_of, read_header
from nnsight_et.results.scores import SCORES, check_scores
from nnsight_et.results.summary import S


@dataclass(frozen=True)
class Result:
    """A finished experiment: its header, and its scores by name."""

    header: ResultHeader
    scores: dict[str, Tensor]

    def read(self, summary: type[S]) -> MethodResult[S]:
        """The same with its summary as its method writes it; ResultError naming the first key or tensor that is not."""
        found = summary.read(self.header)
        check_scores(name_of(self.header), self.scores, found, summary.scores)
        return MethodResult(self.header, self.scores, found)


@dataclass(frozen=True)
class MethodResult(Result, Generic[S]):
    """A finished experiment, and its summary as its method writes it."""

    summary: S


@dataclass(frozen=True)
class Store:
    """The results and cells under one root folder."""

    root: Path
    damaged: list[Path] = field(default_factory=list[Path], compare=False)
    """What was there when it was read, and not as it was written: it counts as missing."""

    def writing(self, folder: Path) -> AbstractContextManager[None]:
        """Hold a run's folder for this process; FolderError naming the holder if another process has it."""
        return one_writer(folder)

    def sweep(self, folder: Path) -> None:
        """Remove what killed runs left half-written in a run's folder and among the cells."""
        sweep(folder)
        sweep(self.root / "store")

    def cell(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under `key`; None if there are none, or they are not what was written."""
        path = self._cell_path(key)
        try:
            with cast(Any, safe_open(path, framework="pt")) as file:
                recorded = (file.metadata() or dict[str, str]()).get("digest")
                names = file.keys()
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError):
            return self.missing(path)
        return tensors if recorded == tensor_digest(tensors) else self.missing(path)

    def notes(self, path: Path) -> dict[str, Any]:
        """What write_json put at `path`; empty if there is nothing, or something else, which is removed."""
        found = read_json(path)
        if found is None:
            self.missing(path)
            remove(path)
        return found or {}

    def missing(self, path: Path) -> None:
        """Take note of what is damaged, if it is there at all."""
        if os.path.lexists(path) and path not in self.damaged:
            self.damaged.append(path)

    def write_cell(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors under `key`."""
        content = _plain(tensors)
        write_file(self._cell_path(key), bytes_of(content, {"digest": tensor_digest(content)}))

    def note(self, key: str) -> dict[str, Any]:
        """The plain data kept under `key`; empty if there is none, or it is not what was written."""
        return self.notes(self._note_path(key))

    def write_note(self, key: str, data: Mapping[str, Any]) -> None:
        """Keep plain data under `key`."""
        write_json(self._note_path(key), data)

    def _cell_path(self, key: str) -> Path:
        return self.root / "store" / key[:2] / f"{key}.safetensors"

    def _note_path(self, key: str) -> Path:
        return self.root / "store" / key[:2] / f"{key}.json"


def write_result(folder: Path, result: Result) -> None:
    """Put a result at `folder`, in place of what is there."""
    scores = bytes_of(_plain(result.scores))
    header = result.header.model_copy(update={"scores_digest": _digest(scores)})
    data = _without_nan(header.to_dict())
    text = json.dumps(data | {"digest": digest(data)}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_folder(folder, {SCORES: scores, HEADER: text.encode()})


def read_result(folder: Path) -> Result:
    """The result at `folder`; ResultError naming the file if one is missing or damaged."""
    header, path = read_header(folder), folder / SCORES
    while True:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ResultError(f"{path}: cannot be read ({error.strerror}); accepted: the scores of {HEADER}") from None
        if _digest(content) == header.scores_digest:
            return Result(header, tensors_of(content))
        earlier, header = header, read_header(folder)  # a run may have put another result there in between
        if header == earlier:
            why = f"its content does not match the digest in {HEADER}; remove the folder and run again"
            raise ResultError(f"{path}: damaged: {why}")


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, dtypes, shapes and contents, in the order of the names."""
    state = blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        state.update(tensor.flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _without_nan(value: JsonValue) -> Any:
    """The same plain data with null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
