"""What results of completeness are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import FigureGroup, Point, Scatter
from nnsight_et.display.marks import BARS, plate, value_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import INTERVALS, Table, bounded, number, spread, table_of
from nnsight_et.methods.completeness.summary import CompletenessRow, CompletenessSummary
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: CompletenessSummary) -> str:
    """How much circuit and model differ without the same heads."""
    if half := summary.halves:
        return f"circuit and model differ by {number(half.completeness.mean)} without random halves"
    worst = max(summary.rows, key=lambda row: row.completeness, default=None)
    return f"circuit and model differ by at most {number(worst.completeness)}" if worst else "nothing removed"


def tables(header: ResultHeader, summary: CompletenessSummary) -> tuple[Table, ...]:
    """Circuit and model without the same heads; the random draws as their mean and deviation."""
    rows: list[dict[str, Any]] = []
    if drawn := summary.halves:
        mean = {"model": drawn.model, "circuit": drawn.circuit, "completeness": drawn.completeness}
        spreads = {name: spread(one.mean, one.std) for name, one in mean.items()}
        rows.append({"removed": "random halves", "heads": "–"} | spreads)
    rows += [
        {
            "removed": row.removed,
            "heads": row.heads,
            "model": bounded(row.model, row.model_interval),
            "circuit": bounded(row.circuit, row.circuit_interval),
            "completeness": bounded(row.completeness, row.completeness_interval, row.differing),
        }
        for row in summary.rows
        if not _is_half(row)
    ]
    columns = {
        "removed": "removed",
        "heads": "heads",
        "model": "model",
        "circuit": "circuit",
        "difference": "completeness",
    }
    about = "Accuracy without the removed heads. If the circuit is complete, both lose the same accuracy (App. C)."
    note = f"{about} {INTERVALS}"
    return (table_of(header, f"completeness on {models_of(header)}", columns, rows, note),)


def _is_half(row: CompletenessRow) -> bool:
    return row.removed.startswith("random ")


def figures(result: MethodResult[CompletenessSummary], study: Study) -> tuple[FigureGroup, ...]:
    """A point per set of removed heads: circuit and model."""
    kinds: dict[str, list[Point]] = {}
    for row in result.summary.rows:
        kind = "random halves" if _is_half(row) else row.removed
        circuit = value_mark(row.circuit, row.circuit_interval, "circuit")
        model = value_mark(row.model, row.model_interval, "model")
        if circuit and model:
            text = f"without {row.removed} ({quantity(row.heads, 'head')}): {circuit.text}; {model.text}"
            kinds.setdefault(kind, []).append(Point(circuit, model, text))
    found = tuple((kind, tuple(points)) for kind, points in kinds.items())
    panel = Scatter("completeness", ("circuit without K", "model without K"), found)
    caption = f"Accuracy of circuit and model without the same heads K. A complete circuit lies on the diagonal. {BARS}"
    title = f"Completeness on {models_of(result.header)}"
    return (plate(result, "completeness", title, caption, (panel,)),)


def metrics(result: MethodResult[CompletenessSummary]) -> Iterator[TidyRow]:
    """Per set of removed heads, and on average over the random halves: what the model and the circuit keep."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), condition=f"without {row.removed}")
        yield place.of("accuracy", row.model, row.model_interval)
        yield place.of("circuit_accuracy", row.circuit, row.circuit_interval)
        yield place.of("completeness", row.completeness, row.completeness_interval)
    if drawn := result.summary.halves:
        place = replace(of_experiment(result.header), condition="without random halves")
        yield place.of("accuracy", drawn.model.mean, drawn.model.mean_interval)
        yield place.of("accuracy_std", drawn.model.std)
        yield place.of("circuit_accuracy", drawn.circuit.mean, drawn.circuit.mean_interval)
        yield place.of("circuit_accuracy_std", drawn.circuit.std)
        yield place.of("completeness", drawn.completeness.mean)
        yield place.of("completeness_std", drawn.completeness.std)


def paper_numbers(summary: CompletenessSummary) -> PaperNumbers:
    """Per set of removed heads, and of random halves: both accuracies and their difference."""
    for row in summary.rows:
        yield (row.removed, "full_model"), row.model
        yield (row.removed, "circuit"), row.circuit
        yield (row.removed, "completeness"), row.completeness
    if drawn := summary.halves:
        yield ("random", "full_model"), drawn.model.mean
        yield ("random", "circuit"), drawn.circuit.mean
        yield ("random", "completeness"), drawn.completeness.mean
