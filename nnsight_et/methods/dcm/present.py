"""What results of DCM are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nnsight_et.core.errors import quantity
from nnsight_et.core.lists import to_list
from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Series
from nnsight_et.display.marks import BARS, plate, value_mark
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.table import INTERVALS, Table, bounded, number, several, table_of
from nnsight_et.methods.dcm.summary import DCMSummary, GroupMask
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study

LIMITS = (
    "Floor, validated, ceiling: the same share of the validation prompts with none of the group's heads patched, with "
    "the selected ones, and with all."
)


def headline(summary: DCMSummary) -> str:
    """Per variable, how many heads carry it."""
    counts: dict[str, int] = {}
    for row in summary.rows:
        counts[row.desideratum] = counts.get(row.desideratum, 0) + len(row.selected)
    return several([f"{quantity(count, 'head')} for {name}" for name, count in counts.items()], 4)


def tables(header: ResultHeader, summary: DCMSummary) -> tuple[Table, ...]:
    """Which heads of each group were selected for which variable, and what patching them does."""
    columns: dict[str, Callable[[GroupMask], str]] = {
        "group": lambda row: row.group,
        "desideratum": lambda row: row.desideratum,
        "selected": lambda row: f"{len(row.selected)} of {row.heads}",
        "accuracy": lambda row: bounded(row.accuracy, row.accuracy_interval),
        "doing nothing": lambda row: bounded(row.do_nothing, row.do_nothing_interval),
        "floor": lambda row: number(row.floor),
        "validated": lambda row: number(row.validated),
        "ceiling": lambda row: number(row.ceiling),
        "heads": lambda row: " ".join(row.selected),
    }
    note = "Accuracy: how often patching the selected heads gives the desideratum's answer (§5.1). " + INTERVALS
    note = f"{note} {LIMITS}"
    found = [table_of(header, f"roles of heads in {models_of(header)}", columns, summary.rows, note)]
    reasons = [(row, reason.text) for row in summary.rows for reason in row.why]
    if reasons:
        where: dict[str, Callable[[tuple[GroupMask, str]], str]] = {
            "group": lambda one: one[0].group,
            "desideratum": lambda one: one[0].desideratum,
            "selected": lambda one: f"{len(one[0].selected)} of {one[0].heads}",
            "why": lambda one: one[1],
        }
        title = f"selections in {models_of(header)} that are empty, useless or close calls"
        found.append(table_of(header, title, where, reasons, ""))
    return tuple(found)


def figures(result: MethodResult[DCMSummary], study: Study) -> tuple[FigureGroup, ...]:
    """One panel: per group and desideratum the accuracy of the selected heads."""
    found = {(row.group, row.desideratum): row for row in result.summary.rows}
    groups = tuple(dict.fromkeys(group for group, _ in found))
    names = dict.fromkeys(name for _, name in found)

    def bar(group: str, name: str) -> DataPoint | None:
        row = found.get((group, name))
        if row is None:
            return None
        what = f"{group}, {name}, {len(row.selected)} of {quantity(row.heads, 'head')}"
        what += "" if row.ceiling is None else f", all {number(row.ceiling)} in validation"
        return value_mark(row.accuracy, row.accuracy_interval, what, row.do_nothing)

    series = tuple(Series(name, tuple(bar(group, name) for group in groups)) for name in names)
    panel = Bars("selected heads", groups, series, "accuracy")
    caption = f"How often patching the selected heads gives the desideratum's answer. Tick: nothing patched. {BARS}"
    title = f"What each group carries in {models_of(result.header)}"
    return (plate(result, "roles", title, caption, (panel,)),)


def metrics(result: MethodResult[DCMSummary]) -> Iterator[TidyRow]:
    """Per group and desideratum: how many heads were selected, their accuracy, and that of doing nothing."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), group=row.group, desideratum=row.desideratum)
        yield place.of("selected", len(row.selected))
        yield place.of("accuracy", row.accuracy, row.accuracy_interval)
        yield place.of("do_nothing_accuracy", row.do_nothing, row.do_nothing_interval)
        if row.ceiling is not None:
            yield place.of("validated_accuracy", row.validated)
            yield place.of("floor_accuracy", row.floor, row.floor_interval)
            yield place.of("ceiling_accuracy", row.ceiling, row.ceiling_interval)


def heads(result: MethodResult[DCMSummary]) -> Iterator[TidyRow]:
    """Per group, desideratum and head: its mask; 1 keeps the base run's output, 0 takes the source's."""
    circuit = result.summary.circuit.to_circuit()
    for row in result.summary.rows:
        group = circuit.group(row.group)
        masks = result.scores[f"{group.name}.{row.desideratum}.mask"]
        place = replace(of_experiment(result.header), group=group.name, at=group.at, desideratum=row.desideratum)
        for head, mask in zip(group.heads, to_list(masks), strict=True):
            yield replace(place.at_head(head), kept=str(head) in row.selected).of("mask", mask)
