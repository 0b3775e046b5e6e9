"""What results of activation patching are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Series
from nnsight_et.display.marks import BARS, plate, spread_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import INTERVALS, Table, bounded, number, several, spread, table_of
from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary, PatchedGroup
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: ActivationPatchingSummary) -> str:
    """Per variable, the group that carries it best."""
    best: dict[str, PatchedGroup] = {}
    for row in summary.rows:
        best[row.desideratum] = max(best.get(row.desideratum, row), row, key=lambda one: one.mean)
    return several([f"{name}: {one.group} {number(one.mean)} in {one.model}" for name, one in best.items()], 4)


def tables(header: ResultHeader, summary: ActivationPatchingSummary) -> tuple[Table, ...]:
    """How often the patched heads give the desideratum's answer in each model."""
    columns: dict[str, Callable[[PatchedGroup], str | int]] = {
        "model": lambda row: row.model,
        "group": lambda row: row.group,
        "desideratum": lambda row: row.desideratum,
        "heads": lambda row: row.heads,
        "accuracy": lambda row: spread(row.mean, row.std, row.mean_interval),
        "doing nothing": lambda row: bounded(row.do_nothing, row.do_nothing_interval),
    }
    note = f"Mean and standard deviation over draws of fresh examples (Fig. 3). {INTERVALS}"
    if none := dict.fromkeys(f"{row.group}, {row.desideratum}" for row in summary.rows if not row.heads):
        note += f" Nothing is patched where no heads were selected: {several(list(none))}."
    return (table_of(header, "functionality", columns, summary.rows, note),)


def figures(result: MethodResult[ActivationPatchingSummary], study: Study) -> tuple[FigureGroup, ...]:
    """A panel per group: desiderata by models."""
    rows = result.summary.rows
    models = tuple(dict.fromkeys(row.model for row in rows))
    names = tuple(dict.fromkeys(row.desideratum for row in rows))
    found = {(row.group, row.model, row.desideratum): row for row in rows}

    def bar(group: str, model: str, name: str) -> DataPoint | None:
        row = found.get((group, model, name))
        if row is None:
            return None
        what = f"{model}, {name}, {quantity(row.heads, 'head')}"
        return spread_mark(row.mean, row.std, row.mean_interval, what, row.do_nothing)

    panels = tuple(
        Bars(
            group,
            names,
            tuple(Series(model, tuple(bar(group, model, name) for name in names)) for model in models),
            "accuracy",
        )
        for group in dict.fromkeys(row.group for row in rows)
    )
    caption = (
        "How often each model gives the desideratum's answer when a group's selected heads are patched. "
        f"Tick: nothing patched. {BARS}"
    )
    return (plate(result, "functionality", "Functionality of the groups across models", caption, panels),)


def metrics(result: MethodResult[ActivationPatchingSummary]) -> Iterator[TidyRow]:
    """Per model, group and desideratum: the selected heads' accuracy, and that of doing nothing."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header, row.model), group=row.group, desideratum=row.desideratum)
        yield place.of("accuracy", row.mean, row.mean_interval)
        yield place.of("do_nothing_accuracy", row.do_nothing, row.do_nothing_interval)
        yield place.of("accuracy_std", row.std)


def paper_numbers(summary: ActivationPatchingSummary) -> PaperNumbers:
    """Per model, group and desideratum: the mean accuracy."""
    for row in summary.rows:
        yield (f"{paper_name(row.model)}/{row.group}", row.desideratum), row.mean
        if row.group == "position_transmitter":  # Table A11 is about this group in llama
            yield (row.desideratum, "accuracy"), row.mean
