"""Scores of heads in files -> matrices [layer, head]: NumPy, PyTorch, safetensors, CSV, or an experiment's result.

Nothing is unpickled but tensors, by PyTorch's own reader of those.
"""

from __future__ import annotations

import csv
import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Any, cast

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nnsight_et.core.errors import ManifestError, ResultError, TaskError
from nnsight_et.results.headers import method_of
from nnsight_et.results.scores import SCORES
from nnsight_et.results.store import read_result
from nnsight_et.results.summary import stages_in

FILE_LIMIT = 1 << 24  # bytes
HEADS_LIMIT = 1 << 20
ACCEPTED = "accepted: scores [layer, head] as .npy, .csv, .pt or .safetensors, or the folder of a path_patching result"
LAYER, HEAD, VALUE = "layer", ("index", "head"), ("value", "score")
DAMAGED = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, MemoryError,
    EOFError, OSError, SyntaxError, struct.error, zipfile.BadZipFile, SafetensorError,
    TokenError, UnpicklingError,
)  # fmt: skip
"""What readers of other packages raise over a damaged file."""


@dataclass(frozen=True)
class ScoreMatrix:
    """The scores [layer, head] of one group, in float64; its position where the file says it."""

    group: str
    at: str | None
    scores: Tensor


def read_scores(path: Path) -> tuple[ScoreMatrix, ...]:
    """The matrices in a file or a result's folder; ManifestError or TaskError naming it if it cannot be used."""
    if path.is_dir():
        return tuple(_of_result(path))
    if path.suffix not in READERS:
        raise ManifestError(f"{path}: found {path.suffix or 'no file extension'}; {ACCEPTED}")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= FILE_LIMIT else b""
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); {ACCEPTED}") from None
    if size > FILE_LIMIT:
        raise ManifestError(f"{path}: {size} bytes; accepted: at most {FILE_LIMIT}")
    return READERS[path.suffix](content, path)


def _of_result(folder: Path) -> Iterator[ScoreMatrix]:
    """Every stage's scores."""
    result = read_result(folder)
    if method_of(result.header) != "path_patching":
        raise TaskError(
            f"{folder}: not a result of path_patching; accepted: one, or a result with a circuit, without keep"
        )
    for stage in stages_in(result.header):
        name = f"{stage.group}.score"
        if name not in result.scores:
            raise ResultError(f"{folder / SCORES}: no scores {name}; accepted: a result of path_patching")
        yield ScoreMatrix(stage.group, stage.at, _matrix(result.scores[name], f"{folder}: {stage.group}"))


def _of_numpy(content: bytes, path: Path) -> tuple[ScoreMatrix, ...]:
    try:
        if not content.startswith(numpy.lib.format.MAGIC_PREFIX):
            raise ValueError("no .npy header")
        with warnings.catch_warnings(action="error"):  # a file that is of Python 2
            found = numpy.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype.kind not in "fiu" or found.size > HEADS_LIMIT:
            raise ValueError(f"{found.dtype} {found.shape}")
        values = torch.as_tensor(numpy.array(found, dtype=numpy.float64))
    except (*DAMAGED, UserWarning) as error:
        raise TaskError(f"{path}: not an array of numbers ({_first_line(error)}); {ACCEPTED}") from None
    return (ScoreMatrix(path.stem, None, _matrix(values, str(path))),)


def _of_torch(content: bytes, path: Path) -> tuple[ScoreMatrix, ...]:
    """A tensor, or tensors by name, as torch.save writes them."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > FILE_LIMIT:
            raise ValueError(f"{size} bytes in it")
        with warnings.catch_warnings(action="error"):  # a pickle of another protocol
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*DAMAGED, UserWarning) as error:
        raise TaskError(f"{path}: not tensors as torch.save writes them ({_first_line(error)}); {ACCEPTED}") from None
    return _of_tensors(cast(Mapping[Any, Any], found) if isinstance(found, Mapping) else {path.stem: found}, path)


def _of_safetensors(content: bytes, path: Path) -> tuple[ScoreMatrix, ...]:
    try:
        with cast(Any, safe_open(path, framework="pt")) as file:
            found: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except DAMAGED as error:
        raise TaskError(f"{path}: not safetensors ({_first_line(error)}); {ACCEPTED}") from None
    return _of_tensors(found, path)


def _of_tensors(found: Mapping[Any, Any], path: Path) -> tuple[ScoreMatrix, ...]:
    """One group per tensor, under the tensor's name, or the file's where there is one only."""
    if not found:
        raise TaskError(f"{path}: it has no tensors; {ACCEPTED}")
    names = [path.stem] if len(found) == 1 else [ascii(name)[1:-1] for name in found]
    return tuple(
        ScoreMatrix(name, None, _matrix(one, f"{path}: {name}"))
        for name, one in zip(names, found.values(), strict=True)
    )


def _of_csv(content: bytes, path: Path) -> tuple[ScoreMatrix, ...]:
    """Lines of numbers, a layer each; or a row per head, under a header with layer, head and score."""
    try:
        rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path}: not CSV ({_first_line(error)}); {ACCEPTED}") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if LAYER in header:
        return tuple(_tidy(header, rows[1:], path))
    numbers = [[_number(text, f"{path}: row {index + 1}") for text in row] for index, row in enumerate(rows)]
    if len({len(row) for row in numbers}) != 1:
        raise TaskError(f"{path}: rows of unequal length; accepted: a layer in each row, a head in each column")
    return (ScoreMatrix(path.stem, None, _matrix(torch.tensor(numbers, dtype=torch.float64), str(path))),)


def _tidy(header: list[str], rows: list[list[str]], path: Path) -> Iterator[ScoreMatrix]:
    """One matrix per group; of the rows of `et export` those with patching scores."""
    head, value = (next((name for name in names if name in header), None) for names in (HEAD, VALUE))
    if head is None or value is None:
        raise TaskError(f"{path}: columns {', '.join(header)[:200]!a}; accepted: layer, head, score, and more")
    groups: dict[tuple[str, ...], dict[tuple[int, int], float]] = {}
    for index, row in enumerate(rows):
        where = f"{path}: row {index + 2}"
        if len(row) != len(header):
            raise TaskError(f"{where}: {len(row)} columns; accepted: {len(header)}, as in the first row")
        entry = dict(zip(header, row, strict=True))
        if entry.get("metric", "patching_score") == "patching_score":
            place = (_index(entry[LAYER], where), _index(entry[head], where))
            scores = groups.setdefault(tuple(entry.get(key, "") for key in ("group", "at", "experiment", "model")), {})
            if place in scores:
                raise TaskError(f"{where}: L{place[0]}H{place[1]} appears twice; accepted: each head once in a group")
            scores[place] = _number(entry[value], where)
    names = [group for group, *_ in groups]
    if not groups or len(set(names)) < len(names):
        found = (
            "no row with a patching_score" if not groups else "one group with several experiments, models or positions"
        )
        raise TaskError(f"{path}: {found}; accepted: the scores of one experiment")
    for (group, at, *_), scores in groups.items():
        yield ScoreMatrix(
            group or path.stem, at or None, _score_matrix(scores, f"{path}: {group}" if group else str(path))
        )


def _score_matrix(scores: Mapping[tuple[int, int], float], where: str) -> Tensor:
    """[layer, head]; TaskError if a head up to the largest layer and index has no score."""
    layers, heads = (1 + max(place[axis] for place in scores) for axis in (0, 1))
    if layers * heads != len(scores):
        raise TaskError(f"{where}: {len(scores)} heads; accepted: every head of {layers} layers of {heads} heads")
    values = torch.empty(layers, heads, dtype=torch.float64)
    for place, value in scores.items():
        values[place] = value
    return values


def _matrix(found: Any, where: str) -> Tensor:
    """The scores in float64; TaskError unless they are numbers [layer, head] of which all exist."""
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta or found.is_quantized:
        raise TaskError(f"{where}: found {type(found).__name__}; {ACCEPTED}")
    if found.ndim != 2 or not 0 < found.numel() <= HEADS_LIMIT:
        raise TaskError(f"{where}: shape {list(found.shape)}; {ACCEPTED}")
    if found.dtype == torch.bool or found.is_complex():
        raise TaskError(f"{where}: {found.dtype}; accepted: real numbers")
    values = found.detach().to(torch.float64)
    if not values.isfinite().all():
        layer, head = map(int, (~values.isfinite()).nonzero()[0])
        raise TaskError(f"{where}: L{layer}H{head} is {values[layer, head].item()}; accepted: finite numbers")
    return values


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TaskError(f"{where}: found {text[:40]!a}; accepted: a number") from None


def _index(text: str, where: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise TaskError(f"{where}: found {text[:40]!a}; accepted: the index of a layer or head, from 0")
    return int(text)


def _first_line(error: Exception) -> str:
    """The first line of another package's error."""
    lines = ascii(str(error).split("\n")[0])[1:-1]
    return lines[:120] or type(error).__name__


READERS: dict[str, Callable[[bytes, Path], tuple[ScoreMatrix, ...]]] = {
    ".npy": _of_numpy,
    ".pt": _of_torch,
    ".pth": _of_torch,
    ".safetensors": _of_safetensors,
    ".csv": _of_csv,
}
