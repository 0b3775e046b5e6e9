"""What results of completeness are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import (
    Plate,
    Point,
    Scatter,
)
from nnsight_et.display.marks import BARS, mark, plate
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import (
    INTERVALS,
    Table,
    rows_of,
    spread,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """Circuit and model without the same heads; the random draws as their mean and deviation."""
    rows = [row for row in rows_of(header) if not str(row["removed"]).startswith("random ")]
    if drawn := header.summary["random"]:
        mean = {key: spread(values["mean"], values["std"]) for key, values in drawn.items()}
        rows.insert(0, {"removed": "random halves", "heads": "–"} | mean)
    columns = {"removed": "removed", "heads": "heads"} | {
        name: with_interval(key)
        for name, key in {"model": "model", "circuit": "circuit", "difference": "completeness"}.items()
    }
    note = f"Accuracy without the removed heads; in a complete circuit both lose alike (App. C). {INTERVALS}"
    return (table_of(header, f"completeness on {models_of(header)}", columns, rows, note),)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """A point per set of removed heads: circuit and model."""
    rows = result.header.summary["rows"]
    kinds: dict[str, list[Point]] = {}
    for row in rows:
        kind = "random halves" if str(row["removed"]).startswith("random ") else row["removed"]
        circuit, model = (mark(row, key, key) for key in ("circuit", "model"))
        if circuit and model:
            text = f"without {row['removed']} ({quantity(row['heads'], 'head')}): {circuit.text}; {model.text}"
            kinds.setdefault(kind, []).append(Point(circuit, model, text))
    found = tuple((kind, tuple(points)) for kind, points in kinds.items())
    panel = Scatter("completeness", ("circuit without K", "model without K"), found)
    caption = f"Accuracy of circuit and model without the same heads K: in a complete circuit, on the diagonal. {BARS}"
    title = f"Completeness on {models_of(result.header)}"
    return (plate(result, "completeness", title, caption, (panel,)),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Per set of removed heads, and on average over the random halves: what the model and the circuit keep."""
    names = {"accuracy": "model", "circuit_accuracy": "circuit", "completeness": "completeness"}
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), condition=f"without {row['removed']}")
        yield from of_row(place, row, names)
    place = replace(of_experiment(result.header), condition="without random halves")
    drawn = result.header.summary["random"]
    for name, key in names.items() if drawn else ():
        yield place.of(name, drawn[key]["mean"], drawn[key].get("mean_interval"))
        yield place.of(f"{name}_std", drawn[key]["std"])


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Per set of removed heads, and of random halves: both accuracies and their difference."""
    names = {"full_model": "model", "circuit": "circuit", "completeness": "completeness"}
    for row in summary["rows"]:
        for column, key in names.items():
            yield (row["removed"], column), row[key]
    for column, key in names.items():
        if summary["random"]:
            yield ("random", column), summary["random"][key]["mean"]
