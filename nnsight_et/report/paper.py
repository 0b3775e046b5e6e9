"""The paper's numbers beside ours, for experiments that reproduce a table or figure of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nnsight_et.circuits import published
from nnsight_et.display.table import Table, number
from nnsight_et.models.named import EMBEDDED, NAMED
from nnsight_et.results.headers import name_of
from nnsight_et.results.store import ResultHeader

Ours = Iterator[tuple[tuple[str, str], float | None]]
"""(row, column) as the published numbers have them -> our value."""
PAPER_LAYERS = 32


def paper_tables(header: ResultHeader) -> tuple[Table, ...]:
    """Paper, ours, difference: one table per table or figure that the experiment says it reproduces."""
    spec = header.job.get("spec", {})
    method = str(spec.get("method"))
    if method not in _OURS:
        return ()
    ours = dict(_OURS[method](header.summary))
    return tuple(_table(header, name, ours) for name in spec.get("reproduces") or ())


def _table(header: ResultHeader, name: str, ours: Mapping[tuple[str, str], float | None]) -> Table:
    rows = []
    for one in published.numbers():
        value = ours.get((one.row, one.column))
        if one.table == name and value is not None:
            gap = f"{value - one.value:+.2f}"
            rows.append((one.row, one.column, number(one.value), number(value), gap, one.source))
    columns = ("row", "column", "paper", "ours", "difference", "source of the paper's number")
    title = f"{name_of(header)}: {name} of the paper"
    return Table(title, columns, tuple(rows), frozenset(columns[2:5]), _note(header, bool(rows)))


def _note(header: ResultHeader, comparable: bool) -> str:
    if not comparable:
        return "No number of ours stands for one of the paper's: other models or layers."
    models = [record.name for record in header.models]
    tiny = [name for name in models if name in NAMED and NAMED[name].spec.path.startswith(str(EMBEDDED))]
    if tiny:
        return (
            f"Ours are small embedded models ({', '.join(tiny)}) made for this package, in place of the paper's 7B "
            "models: the difference says nothing about the paper."
        )
    return f"Ours: {', '.join(models)}." if models else "Ours: the circuits of this manifest."


def _faithfulness(summary: Mapping[str, Any]) -> Ours:
    names = {
        "full_model": "full",
        "circuit": "circuit",
        "random_circuit": "random_mean",
        "faithfulness": "faithfulness",
    }
    for row in summary["rows"]:
        for column, key in names.items():
            yield (_short(row["model"]), column), row[key]


def _completeness(summary: Mapping[str, Any]) -> Ours:
    names = {"full_model": "model", "circuit": "circuit", "completeness": "completeness"}
    for row in summary["rows"]:
        for column, key in names.items():
            yield (row["removed"], column), row[key]
    for column, key in names.items():
        if summary["random"]:
            yield ("random", column), summary["random"][key]["mean"]


def _comparison(summary: Mapping[str, Any]) -> Ours:
    for row in summary["rows"]:
        for column, key in {"intersection": "shared", "precision": "precision", "recall": "recall"}.items():
            yield (row["group"], column), row[key]


def _activation_patching(summary: Mapping[str, Any]) -> Ours:
    for row in summary["rows"]:
        yield (f"{_short(row['model'])}/{row['group']}", row["desideratum"]), row["mean"]
        if row["group"] == "position_transmitter":  # Table A11 is about this group in llama
            yield (row["desideratum"], "accuracy"), row["mean"]


def _cmap(summary: Mapping[str, Any]) -> Ours:
    pair = f"{_short(summary['donor'])} -> {_short(summary['recipient'])}"
    for side in ("donor", "recipient"):
        yield (pair, side), summary["models"][summary[side]]
    for row in summary["rows"]:
        if row["patched"] == "output":
            yield (pair, row["group"]), row["accuracy"]


def _knockout(summary: Mapping[str, Any]) -> Ours:
    for row in summary["rows"]:
        if len(row["accuracy"]) == PAPER_LAYERS + 1:
            for layer, accuracy in enumerate(row["accuracy"]):
                yield (f"{row['blind']} -> {row['to']}", str(layer)), accuracy


def _short(model: str) -> str:
    """The paper's name of a model, or of the one an embedded model stands in for."""
    return model.removesuffix("-tiny")


_OURS: dict[str, Callable[[Mapping[str, Any]], Ours]] = {
    "faithfulness": _faithfulness,
    "completeness": _completeness,
    "comparison": _comparison,
    "activation_patching": _activation_patching,
    "cmap": _cmap,
    "knockout": _knockout,
}
