"""What results of attention knockout are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from nnsight_et.display.figures import Curves, DataPoint, FigureGroup, Series
from nnsight_et.display.marks import BARS, plate, value_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import Table, number, table_of
from nnsight_et.methods.knockout.summary import BlockedEdge, KnockoutSummary
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.records import Interval
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: KnockoutSummary) -> str:
    """The accuracy as it is, and where blocking costs most of it."""
    worst = min(summary.rows, key=lambda row: min(row.accuracy), default=None)
    if worst is None:
        return "nothing blocked"
    return (
        f"accuracy {number(worst.accuracy[-1])}, {number(min(worst.accuracy))} with {worst.blind} blind to {worst.to}"
    )


def tables(header: ResultHeader, summary: KnockoutSummary) -> tuple[Table, ...]:
    """Accuracy when one position is blind to another, from each layer up."""
    rows = summary.rows
    columns: dict[str, Callable[[BlockedEdge], str]] = {"blind": lambda row: row.blind, "to": lambda row: row.to}
    for index, name in enumerate([*(f"L{layer}+" for layer in summary.first_layers), "none"] if rows else ()):
        columns[name] = lambda row, index=index: number(row.accuracy[index])
    note = " ".join(["Accuracy (Fig. A1, A2).", *_doubts(rows)])
    return (table_of(header, f"attention knockout in {models_of(header)}", columns, rows, note),)


def _doubts(rows: Sequence[BlockedEdge]) -> Iterator[str]:
    """Why the accuracies say little, a sentence for each reason there is."""
    if rows and rows[0].accuracy[-1] == 0:
        yield "The model answers no prompt right by itself: there is nothing to lose."
        return
    idle = [f"{row.blind} to {row.to}" for row in rows if not _loses(row)]
    if idle:
        yield f"Blocking from any layer changes accuracy by no more than its interval: {', '.join(idle)}. What the"
        yield "first position needs from the second, if anything, also reaches it through other tokens."


def _loses(row: BlockedEdge) -> bool:
    """Whether blocking takes the accuracy below what it is with nothing blocked, and below that one's interval."""
    *blocked, none = row.accuracy
    low = row.accuracy_interval[-1][0] if row.accuracy_interval else none
    return min(blocked, default=none) < min(none, none if low is None else low)


def figures(result: MethodResult[KnockoutSummary], study: Study) -> tuple[FigureGroup, ...]:
    """A curve per edge: accuracy by the first blocked layer."""
    rows, panels, firsts = result.summary.rows, list[Curves](), result.summary.first_layers
    for blind in dict.fromkeys(row.blind for row in rows):
        series = list[Series]()
        for row in (row for row in rows if row.blind == blind):
            marks = list[DataPoint | None]()
            for index, (value, interval) in enumerate(_of_layers(row)):
                where = "nothing blocked" if index == len(firsts) else f"layers L{firsts[index]} and up"
                marks.append(value_mark(value, interval, f"{blind} blind to {row.to}, {where}"))
            series.append(Series(f"to {row.to}", tuple(marks)))
        ticks = (*map(str, firsts), "none")
        panels.append(Curves(f"{blind} blind to …", ticks, "first blocked layer", tuple(series), "accuracy"))
    caption = f"Accuracy when one position cannot attend to another from a given layer upwards. {BARS}"
    title = f"Attention knockout in {models_of(result.header)}"
    return (plate(result, "knockout", title, caption, tuple(panels)),)


def metrics(result: MethodResult[KnockoutSummary]) -> Iterator[TidyRow]:
    """Accuracy by the first layer whose attention is blocked; the layer after the last one tried means none is."""
    firsts = result.summary.first_layers
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), condition=f"{row.blind} blind to {row.to}")
        for layer, (value, interval) in zip([*firsts, firsts[-1] + 1], _of_layers(row), strict=True):
            yield replace(place, layer=layer).of("accuracy", value, interval)


def _of_layers(row: BlockedEdge) -> Iterator[tuple[float, Interval | None]]:
    """The edge's accuracies by first blocked layer, each with its interval if there is one."""
    return zip(row.accuracy, row.accuracy_interval or [None] * len(row.accuracy), strict=True)


PAPER_LAYERS = 32


def paper_numbers(summary: KnockoutSummary) -> PaperNumbers:
    """Per edge and first blocked layer: accuracy, of models as deep as the paper's."""
    for row in summary.rows if summary.layers is None else ():
        if len(row.accuracy) == PAPER_LAYERS + 1:
            for layer, accuracy in enumerate(row.accuracy):
                yield (f"{row.blind} -> {row.to}", str(layer)), accuracy
