"""What results of CMAP are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Line, Series
from nnsight_et.display.marks import BARS, plate, spread_mark, value_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import INTERVALS, Table, bounded, number, spread, table_of
from nnsight_et.methods.cmap.summary import CMAPSummary, PatchedRecipient
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: CMAPSummary) -> str:
    """The recipient's accuracy alone and at its best."""
    own = number(summary.models[summary.recipient])
    best = max(summary.rows, key=lambda row: row.accuracy, default=None)
    name = "all groups" if best and best.group == "all" else best and best.group
    with_donor = f", {number(best.accuracy)} with {name} of {summary.donor}" if best else ""
    return f"{summary.recipient} {own} alone{with_donor}"


def tables(header: ResultHeader, summary: CMAPSummary) -> tuple[Table, ...]:
    """The recipient's accuracy with the donor's activations, beside both models' own."""
    own = ", ".join(f"{name} alone {number(value)}" for name, value in summary.models.items())
    drawn = summary.random
    control = f"; as many random heads {spread(drawn.mean, drawn.std)}" if drawn else ""
    columns: dict[str, Callable[[PatchedRecipient], str | int]] = {
        "patched": lambda row: row.patched,
        "group": lambda row: row.group,
        "heads": lambda row: row.heads,
        "accuracy": lambda row: bounded(row.accuracy, row.accuracy_interval),
    }
    note = " ".join([f"Accuracy of the recipient; {own}{control} (Fig. 4). {INTERVALS}", *_doubts(header, summary)])
    title = f"{summary.donor} into {summary.recipient}"
    return (table_of(header, title, columns, summary.rows, note),)


def _doubts(header: ResultHeader, summary: CMAPSummary) -> Iterator[str]:
    """Why the numbers say little, a sentence for each reason there is."""
    donor, recipient = (summary.models[name] for name in (summary.donor, summary.recipient))
    if len({record.fingerprint for record in header.models}) == 1:
        yield "Donor and recipient are the same model, whose own activations change nothing."
    elif donor <= recipient:
        yield f"{summary.donor} alone is no better than {summary.recipient} alone, so its activations cannot help."
    elif all(row.accuracy == recipient for row in summary.rows):
        yield f"No patch changes the accuracy of {summary.recipient}: {summary.donor} is better for another reason."
    whole = max((row for row in summary.rows if row.patched == "output"), key=lambda row: row.heads, default=None)
    if summary.random and whole and recipient < whole.accuracy <= summary.random.mean:
        found = f"{number(summary.random.mean)} on average, and the circuit {number(whole.accuracy)}"
        yield f"As many random heads of {summary.donor} help as much: {found}."
    without = [group.name for group in summary.circuit.groups if not group.heads]
    if without:
        yield f"No heads were selected from {', '.join(without)}, so nothing of them is patched."


def figures(result: MethodResult[CMAPSummary], study: Study) -> tuple[FigureGroup, ...]:
    """The outputs of each group, of all and of random heads; beside it the inputs, where they were patched."""
    summary = result.summary
    donor, recipient, own = summary.donor, summary.recipient, summary.models
    lines = tuple(
        Line(f"{name} alone", own[name], f"{name} alone: {number(own[name], 3)}") for name in (donor, recipient)
    )
    outputs = [row for row in summary.rows if row.patched == "output"]
    marks = [_mark(row, f"{row.group}, output of {quantity(row.heads, 'head')}") for row in outputs]
    categories = [row.group for row in outputs]
    if drawn := summary.random:
        marks.append(spread_mark(drawn.mean, drawn.std, drawn.mean_interval, "as many random heads"))
        categories.append("random heads")
    panels = [Bars("outputs", tuple(categories), (Series("outputs", tuple(marks)),), "accuracy", lines)]
    inputs = {(row.group, row.patched): row for row in summary.rows if row.patched != "output"}
    if inputs:
        groups = tuple(dict.fromkeys(group for group, _ in inputs))
        series = [
            Series(kind, tuple(_mark(inputs[group, kind], f"{group}, {kind}") for group in groups))
            for kind in dict.fromkeys(kind for _, kind in inputs)
        ]
        panels.append(Bars("inputs", groups, tuple(series), "accuracy", lines))
    caption = f"Accuracy of {recipient} with {donor}'s activations; dashed: each model alone. {BARS}"
    return (plate(result, "cmap", f"{donor} into {recipient}", caption, tuple(panels)),)


def _mark(row: PatchedRecipient, what: str) -> DataPoint | None:
    return value_mark(row.accuracy, row.accuracy_interval, what)


def metrics(result: MethodResult[CMAPSummary]) -> Iterator[TidyRow]:
    """Both models' own accuracy, and the recipient's with the donor's activations."""
    summary = result.summary
    for name, value in summary.models.items():
        alone = replace(of_experiment(result.header, name), condition="alone")
        yield alone.of("accuracy", value, summary.model_intervals.get(name))
    recipient = of_experiment(result.header, summary.recipient)
    for row in summary.rows:
        place = replace(recipient, group=row.group, condition=f"{row.patched} of {summary.donor}")
        yield place.of("accuracy", row.accuracy, row.accuracy_interval)
    if drawn := summary.random:
        place = replace(recipient, condition=f"output of {summary.donor}, random heads")
        yield place.of("accuracy", drawn.mean, drawn.mean_interval)
        yield place.of("accuracy_std", drawn.std)


def paper_numbers(summary: CMAPSummary) -> PaperNumbers:
    """Both models' own accuracy, and the recipient's with a group's outputs."""
    pair = f"{paper_name(summary.donor)} -> {paper_name(summary.recipient)}"
    yield (pair, "donor"), summary.models[summary.donor]
    yield (pair, "recipient"), summary.models[summary.recipient]
    for row in summary.rows:
        if row.patched == "output":
            yield (pair, row.group), row.accuracy
