"""What results of attention knockout are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnsight_et.display.figures import (
    Curves,
    Plate,
    Series,
)
from nnsight_et.display.marks import BARS, mark, plate, unique
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
)
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import (
    Cell,
    Table,
    number,
    rows_of,
    table_of,
)
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """Accuracy when one position is blind to another, from each layer up."""
    rows = rows_of(header)
    layers = len(rows[0]["accuracy"]) if rows else 0
    columns: dict[str, str | Cell] = {"blind": "blind", "to": "to"}
    for layer in range(layers):
        columns["none" if layer == layers - 1 else f"L{layer}+"] = _entry("accuracy", layer)
    return (table_of(header, f"attention knockout in {models_of(header)}", columns, rows, "Accuracy (Fig. A1, A2)."),)


def _entry(key: str, index: int) -> Cell:
    return lambda row: number(row[key][index])


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """A curve per edge: accuracy by the first blocked layer."""
    rows, panels = result.header.summary["rows"], []
    for blind in unique(rows, "blind"):
        series = []
        for row in (row for row in rows if row["blind"] == blind):
            bounds = row.get("accuracy_interval") or [None] * len(row["accuracy"])
            marks = []
            for layer, (value, interval) in enumerate(zip(row["accuracy"], bounds, strict=True)):
                where = "nothing blocked" if layer == len(row["accuracy"]) - 1 else f"layers L{layer} and up"
                one = {"accuracy": value, "accuracy_interval": interval}
                marks.append(mark(one, "accuracy", f"{blind} blind to {row['to']}, {where}"))
            series.append(Series(f"to {row['to']}", tuple(marks)))
        layers = len(series[0].marks) - 1
        ticks = (*map(str, range(layers)), "none")
        panels.append(Curves(f"{blind} blind to …", ticks, "first blocked layer", tuple(series), "accuracy"))
    caption = f"Accuracy when one position may not attend to another in all layers from one up. {BARS}"
    title = f"Attention knockout in {models_of(result.header)}"
    return (plate(result, "knockout", title, caption, tuple(panels)),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Accuracy by the first layer whose attention is blocked; the layer after the last means none is."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), condition=f"{row['blind']} blind to {row['to']}")
        bounds = row.get("accuracy_interval") or [None] * len(row["accuracy"])
        for layer, (value, interval) in enumerate(zip(row["accuracy"], bounds, strict=True)):
            yield replace(place, layer=layer).of("accuracy", value, interval)


PAPER_LAYERS = 32


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Per edge and first blocked layer: accuracy, of models as deep as the paper's."""
    for row in summary["rows"]:
        if len(row["accuracy"]) == PAPER_LAYERS + 1:
            for layer, accuracy in enumerate(row["accuracy"]):
                yield (f"{row['blind']} -> {row['to']}", str(layer)), accuracy
