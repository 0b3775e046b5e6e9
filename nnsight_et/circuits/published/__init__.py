"""Results that are there without a run: the paper's circuits (Tables A2, A3, A7), DCM selections, scores, numbers.

Beside them, circuits and selections of the embedded models, as experiments.yaml finds them.

Reads JSON only and imports no torch, so that plans and reports can use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError, accepted_names

CIRCUITS = ("llama", "goat", "float")
"""The models whose circuits the paper found; a circuit bears its model's name."""
EMBEDDED = ("llama-tiny", "goat-tiny", "float-tiny")
"""The embedded models that have a circuit here."""
FILES = {"circuit": "circuits.json", "selections": "selections.json", "scores": "scores.json"}
DOMINANT = {"value_fetcher": "object", "position_transmitter": "position", "position_detector": "position"}
"""Each group's main functionality (§5.2); the structure readers have none."""


@dataclass(frozen=True)
class Number:
    """One published number: accuracies are shares, not percentages; std where there is one beside it."""

    table: str
    """`Table A5`, `Figure 3`, ...; `Table A11, stored` and `DCM test accuracy` are in no table of the paper."""
    row: str
    column: str
    value: float
    source: str
    """`paper`: printed there. `notebook`: printed by the authors' notebooks. `stored results`: computed from theirs."""
    std: float | None = None


def circuit(name: str) -> Circuit:
    """The circuit of one of CIRCUITS (32 layers x 32 heads) or EMBEDDED, each group's most important head first."""
    return Circuit.from_dict(_of(name, "circuit"), name)


def selections(name: str) -> dict[str, dict[str, tuple[Head, ...]]]:
    """Group -> desideratum -> the heads DCM selected in the circuit; in the paper's all 14 for llama's B only.

    The paper's of `label` were trained on wrongly tokenised targets and say nothing.
    """
    return {
        group: {desideratum: tuple(map(Head.parse, heads)) for desideratum, heads in selected.items()}
        for group, selected in _of(name, "selections").items()
    }


def scores(name: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Group -> the published patching scores, by layer and head, its heads were ranked by; negative: important.

    Goat's have a constant added to all heads that the authors' code left in (the adapter of o_proj was dropped).
    """
    return {group: tuple(map(tuple, matrix)) for group, matrix in _of(name, "scores").items()}


def cmap_circuit(name: str) -> Circuit:
    """What the paper patches across models (§6.1): each group's heads of its main functionality, all of D."""
    selected = selections(name)
    groups = []
    for group in circuit(name).groups:
        desideratum = DOMINANT.get(group.name)
        chosen = selected[group.name][desideratum] if desideratum else group.heads
        groups.append(HeadGroup(group.name, group.at, tuple(head for head in group.heads if head in chosen)))
    return Circuit(tuple(groups))


def tables() -> tuple[str, ...]:
    """The tables and figures there are numbers of."""
    return tuple(dict.fromkeys(block["table"] for block in _read("numbers.json")))


def numbers() -> tuple[Number, ...]:
    """Every published number, table by table; (table, row, column) is unique.

    Rows are models, groups (`goat/value_fetcher`: patched in goat), paths, desiderata; columns what is measured. In
    Figures A1 and A2 a column is the first blocked layer, from 0.
    """
    found = []
    for block in _read("numbers.json"):
        for row, values in block["rows"].items():
            for column, value in zip(block["columns"], values, strict=True):
                value, std = value if isinstance(value, list) else (value, None)
                found.append(Number(block["table"], row, column, value, block["source"], std))
    return tuple(found)


def _of(name: str, what: str) -> dict[str, Any]:
    names = CIRCUITS if what == "scores" else (*CIRCUITS, *EMBEDDED)
    if name not in names:
        raise TaskError(f"no published {what} of {name!a}; {accepted_names(name, names)}")
    return _read("embedded.json")[name][what] if name in EMBEDDED else _read(FILES[what])[name]


def _read(file: str) -> Any:
    return json.loads(files(__name__).joinpath(file).read_text(encoding="utf-8"))
