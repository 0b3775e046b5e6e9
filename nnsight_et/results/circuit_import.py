"""Circuits from elsewhere: files that hold one, and matrices of scores whose strongest heads make one."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nnsight_et.circuits.circuit_files import KNOWN, of_groups, read_groups
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ManifestError, TaskError, brief, quantity
from nnsight_et.core.lists import to_list
from nnsight_et.results.score_files import ScoreMatrix, read_scores

GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
T = TypeVar("T")
POSITION_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class ImportedCircuit:
    """What `et.import_circuit` returns: a circuit, and notes on how it was read, moved heads and ties."""

    circuit: Circuit
    notes: tuple[str, ...]


def import_circuit(
    files: str | Path | Sequence[str | Path],
    group: Sequence[str] | str = (),
    at: Sequence[str] | str = (),
    keep: Sequence[int] | int = (),
    largest: bool = False,
) -> ImportedCircuit:
    """The circuit in a file; or, with `keep`, of the heads with the most negative scores in one matrix or several.

    A head whose score is 0 is never kept; one that a later group keeps at the same position leaves the earlier one
    (§4.1).

    Args:
        files: A circuit: .json, ours or lists of [layer, head] as the paper's authors store them, or an experiment's
            folder. Or scores [layer, head]: .npy, .csv, .pt, .safetensors, or the folder of a path_patching result.
        group: Names of the groups, in the order of the matrices; files with the authors' names need none.
        at: Their positions; one is for all.
        keep: How many heads each keeps; one number is for all.
        largest: Keep the largest scores.

    Returns:
        An ImportedCircuit: `.circuit`, and `.notes` on what it was read as, moved heads and ties.

    Raises:
        ManifestError, TaskError: A file or an option does not fit; it is named.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy
        >>> with TemporaryDirectory() as folder:
        ...     numpy.save(f"{folder}/movers.npy", [[-0.1, 0.4], [0.2, -0.9]])
        ...     import_circuit(f"{folder}/movers.npy", at="last", keep=1).circuit.groups
        (HeadGroup(name='movers', at='last', heads=(L1H1,)),)
    """
    paths, names, places, numbers = _paths(files), _as_tuple(group), _as_tuple(at), _numbers(keep)
    if not paths:
        raise ManifestError("files: none given; accepted: a circuit, or one or more matrices of scores")
    if not numbers:
        return _whole(paths, names, places, largest)
    matrices = [matrix for path in paths for matrix in read_scores(path)]
    found = _groups(matrices, names, places)
    if len({matrix.scores.shape for matrix in found}) > 1:
        shapes = ", ".join(f"{one.group} {list(one.scores.shape)}" for one in found)
        raise TaskError(f"matrices of different shapes: {shapes}; accepted: matrices of one model, [layer, head]")
    groups = list[HeadGroup]()
    notes = [f"{len(found)} matri{'x' if len(found) == 1 else 'ces'} of scores {_shape(found[0])}"]
    for matrix, number in zip(found, _for_each(numbers, [one.group for one in found], "keep"), strict=True):
        kept, told = _strongest_heads(matrix, number, largest)
        groups.append(kept)
        notes += told
    circuit = Circuit.from_stages(groups)
    return ImportedCircuit(circuit, (*notes, *_moved_heads(groups, circuit)))


def _paths(files: Any) -> list[Path]:
    """The files, one or several; ManifestError if these are none."""
    found: list[Any] = [*files] if isinstance(files, Iterable) and not isinstance(files, (str, Path)) else [files]
    for one in found:
        if not isinstance(one, (str, Path)):
            raise ManifestError(f"files: {brief(one)}; accepted: names of files, or of an experiment's folder")
    return [Path(one) for one in found]


def _numbers(keep: Any) -> tuple[int, ...]:
    """How many heads to keep, one number or several; ManifestError if some are not whole."""
    found: list[Any] = [*keep] if isinstance(keep, Iterable) and not isinstance(keep, str) else [keep]
    for one in found:
        if not hasattr(one, "__index__"):
            raise ManifestError(f"keep: {brief(one)}; accepted: how many heads each group keeps")
    return tuple(one if isinstance(one, bool) else operator.index(one) for one in found)


def _whole(paths: list[Path], names: tuple[str, ...], places: tuple[str, ...], largest: bool) -> ImportedCircuit:
    """The circuit one file holds, its groups renamed and placed where that is asked for."""
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise ManifestError(f"{missing[0]}: no file; accepted: a circuit, or one or more matrices of scores")
    if len(paths) > 1 or not (paths[0].is_dir() or paths[0].suffix == ".json") or largest:
        found = ", ".join(str(path) for path in paths)
        raise ManifestError(f"{found}: keep is missing; accepted: how many heads each group of scores keeps")
    groups, form = read_groups(paths[0], "circuit")
    found = [one.name for one in groups]
    given = _require_one_per_group(names, found, "group") or found
    at = _for_each(places, found, "at") if places else [one.at for one in groups]
    renamed = [HeadGroup(name, place, one.heads) for name, place, one in zip(given, at, groups, strict=True)]
    return ImportedCircuit(of_groups(renamed, str(paths[0])), (f"read as {form}",))


def _groups(found: Sequence[ScoreMatrix], names: Sequence[str], places: Sequence[str]) -> list[ScoreMatrix]:
    """The matrices under their groups' names, at their positions."""
    given = _require_one_per_group(names, [one.group for one in found], "group") or [one.group for one in found]
    known = [KNOWN.get(name, (name, None)) for name in given]
    ours = [_group_name(name) for name, _ in known]
    if len(set(ours)) < len(ours):
        raise ManifestError(
            f"group: a name appears twice among {', '.join(ours)}; accepted: a different name for each matrix"
        )
    if not places:
        places = [one.at or at or "" for one, (_, at) in zip(found, known, strict=True)]
    placed = zip(ours, _for_each(places, ours, "at"), found, strict=True)
    return [ScoreMatrix(name, _place(at, name), one.scores) for name, at, one in placed]


def _for_each(given: Sequence[T], groups: Sequence[str], option: str) -> list[T]:
    """A value for each group: its own, or the only one there is."""
    return [given[0]] * len(groups) if len(given) == 1 else _require_one_per_group(given, groups, option)


def _require_one_per_group(given: Sequence[T], groups: Sequence[str], option: str) -> list[T]:
    """The values, one for each group; ManifestError if there are some, and more or fewer."""
    if given and len(given) != len(groups):
        found = f"{option}: {len(given)} given for the groups {', '.join(groups)[:200]!a}"
        raise ManifestError(
            f"{found}; accepted: {'' if option == 'group' else 'one for all, or '}one for each, in their order"
        )
    return list(given)


def _strongest_heads(matrix: ScoreMatrix, keep: int, largest: bool) -> tuple[HeadGroup, list[str]]:
    """The group of the `keep` strongest heads, and what is odd about them; ties in row-major order."""
    layers, heads = matrix.scores.shape
    sign = -1.0 if largest else 1.0
    places = [Head(layer, index) for layer in range(layers) for index in range(heads)]
    values: list[float] = to_list((sign * matrix.scores).flatten())
    scores = dict(zip(places, values, strict=True))
    ranked = sorted((head for head in scores if scores[head]), key=lambda head: (scores[head], head))
    if isinstance(keep, bool) or not 1 <= keep <= len(ranked):
        there = f"{len(ranked)} of {len(scores)} in {matrix.group} have a nonzero score"
        found = f"keep: {quantity(keep, 'head')}, but {there}"
        raise TaskError(f"{found}; accepted: 1 to {len(ranked)}" if ranked else f"{found}; accepted: other scores")
    kept, left = ranked[:keep], ranked[keep:]
    assert matrix.at is not None
    notes = list[str]()
    if tied := [head for head in left if scores[head] == scores[kept[-1]]]:
        found = f"{matrix.group}: {_list(tied)} scored as {kept[-1]}, the last one kept"
        notes.append(f"{found}; of equal scores the first in row-major order are kept")
    if weak := [head for head in kept if scores[head] > 0]:
        notes.append(f"{matrix.group}: the score of {_list(weak)} is {'negative' if largest else 'positive'}")
    return HeadGroup(matrix.group, matrix.at, tuple(kept)), notes


def _moved_heads(groups: Sequence[HeadGroup], circuit: Circuit) -> list[str]:
    """Which heads left a group because a later one keeps them at the same position."""
    gone = [
        (one.name, [head for head in one.heads if head not in now.heads])
        for one, now in zip(groups, circuit.groups, strict=True)
    ]
    return [f"{name}: {_list(heads)} left, to a later group at the same position" for name, heads in gone if heads]


def _list(heads: Sequence[Head]) -> str:
    more = f" and {len(heads) - 8} more" if len(heads) > 8 else ""
    return ", ".join(map(str, heads[:8])) + more


def _shape(matrix: ScoreMatrix) -> str:
    layers, heads = matrix.scores.shape
    return f"of {quantity(layers, 'layer')} x {quantity(heads, 'head')}"


def _group_name(name: str) -> str:
    if not GROUP_NAME.fullmatch(name):
        raise ManifestError(f"group: {name[:80]!a}; accepted: a name of letters, digits, - and _")
    return name


def _place(at: str, group: str) -> str:
    if not POSITION_NAME.fullmatch(at):
        found = f"found {at[:80]!a}" if at else "missing"
        raise ManifestError(f"at: {found} for the group {group}; accepted: a named position, such as last")
    return at


def _as_tuple(given: Sequence[str] | str) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
