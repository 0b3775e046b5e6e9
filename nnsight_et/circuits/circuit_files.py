"""Circuits in files: ours, an experiment's result, as the paper's authors store them, or as other tools do.

Reads JSON only and imports no torch, so that plans can use it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnsight_et.circuits.other_tools import (
    AUTO_CIRCUIT,
    EAP_IG,
    is_auto_circuit,
    is_eap_ig,
    of_auto_circuit,
    of_eap_ig,
)
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import ManifestError, TaskError

FILE_LIMIT = 1 << 27  # bytes of a circuit's file; graphs of EAP-IG have all edges of a model
INDEX_LIMIT = 1_000_000
GROUPS = {
    ("value_fetcher", "last"): ("value_fetcher", "value_fetcher_heads", "direct_logit_heads"),
    ("position_transmitter", "last"): (
        "position_transmitter", "pos_transmitter", "heads_affecting_direct_logit_heads", "heads_affect_direct_logit",
    ),
    ("position_detector", "query_label"): (
        "position_detector", "pos_detector", "head_at_query_box_token", "heads_at_query_box_pos",
    ),
    ("structure_reader", "previous_query_label"): (
        "structure_reader", "struct_reader", "heads_at_prev_box_pos", "heads_at_prev_query_box_pos",
    ),
}  # fmt: skip
"""The paper's groups and the position each is at: how the authors' files, of several years, call them."""
KNOWN: dict[str, tuple[str, str]] = {theirs: ours for ours, names in GROUPS.items() for theirs in names}
OURS, RESULT = "a circuit of nnsight_et", "the result of an experiment"
AUTHORS = "lists of [layer, head], as the paper's authors store them"
FORMS = (
    f'{OURS} ({{"schema": 1, "groups": [...]}}), {RESULT}, {AUTHORS} ({{"value_fetcher": [[21, 3], ...]}}), a graph of '
    f'EAP-IG ({{"cfg": ..., "nodes": ..., "edges": ...}}), or edges of auto-circuit (["A9.6->A10.0.Q", ...])'
)


@dataclass(frozen=True)
class CircuitFile:
    """A circuit, and the form it was written in: OURS, RESULT, AUTHORS, EAP_IG or AUTO_CIRCUIT."""

    circuit: Circuit
    form: str
    data: Any = field(default=None, compare=False)
    """The JSON it was read from."""


def read_circuit(path: Path, where: str) -> CircuitFile:
    """The circuit in a .json file, or in a result's folder; ManifestError or TaskError naming `where` if none."""
    groups, form = read_groups(path, where)
    data = json.loads((path / "result.json" if path.is_dir() else path).read_text(encoding="utf-8-sig"))
    return CircuitFile(of_groups(groups, f"{where}: {path}"), form, data)


def read_groups(path: Path, where: str) -> tuple[list[HeadGroup], str]:
    """The groups in such a file, and its form; `at` is empty where the file does not say it.

    ManifestError or TaskError naming `where` if there are none.
    """
    try:
        path = path / "result.json" if path.is_dir() else path
        if path.is_file() and path.stat().st_size > FILE_LIMIT:
            raise ManifestError(f"{where}: {path} has {path.stat().st_size} bytes; accepted: at most {FILE_LIMIT}")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{where}: no file {path} ({error.strerror}); accepted: a circuit's .json file") from None
    except UnicodeDecodeError as error:
        found = f"{path} is not text in UTF-8 (byte {error.start})"
        raise ManifestError(f"{where}: {found}; accepted: a circuit's .json file") from None
    except RecursionError:
        raise ManifestError(f"{where}: {path} is nested too deeply; accepted: a circuit's .json file") from None
    except ValueError as error:
        raise ManifestError(f"{where}: {path} is not JSON ({error}); accepted: a circuit's .json file") from None
    return _groups_in(data, f"{where}: {path}")


def of_groups(groups: Sequence[HeadGroup], where: str) -> Circuit:
    """The groups as a circuit; TaskError naming `where` if one has no position, or a name or head appears twice."""
    for group in groups:
        if not group.at:
            known = ", ".join(names[1] for names in GROUPS.values())
            accept = f"groups named as the authors do ({known}), or `et circuit import` with --at"
            raise TaskError(f"{where}: the position of {group.name[:60]!a} is not known; accepted: {accept}")
    return Circuit.from_dict(Circuit(tuple(groups)).to_dict(), where)


def _groups_in(data: Any, where: str) -> tuple[list[HeadGroup], str]:
    summary = data.get("summary") if isinstance(data, dict) else None
    if isinstance(summary, dict):
        return list(Circuit.from_dict(summary.get("circuit"), where).groups), RESULT
    if isinstance(data, dict) and ("schema" in data or "groups" in data):
        return list(Circuit.from_dict(data, where).groups), OURS
    if is_eap_ig(data):
        return [of_eap_ig(data, where)], EAP_IG
    if is_auto_circuit(data):
        return [of_auto_circuit(data, where)], AUTO_CIRCUIT
    if not isinstance(data, dict) or not data or not all(isinstance(one, list) for one in data.values()):
        raise TaskError(f"{where}: not a circuit; accepted: {FORMS}")
    return [_group(name, pairs, f"{where}: {name[:60]!a}") for name, pairs in data.items()], AUTHORS


def _group(name: str, pairs: list[Any], where: str) -> HeadGroup:
    """A group of [layer, head] pairs under our name for it, at its position."""
    for index, pair in enumerate(pairs):
        right = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not (right and all(0 <= number < INDEX_LIMIT for number in pair)):
            raise TaskError(f"{where}[{index}]: found {ascii(pair)[:60]}; accepted: [layer, head], both from 0")
    return HeadGroup(*KNOWN.get(name, (name, "")), tuple(Head(*pair) for pair in pairs))
