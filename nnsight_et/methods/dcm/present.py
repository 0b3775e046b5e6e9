"""What results of DCM are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import (
    Bars,
    Mark,
    Plate,
    Series,
)
from nnsight_et.display.marks import BARS, mark, plate, unique
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.table import (
    INTERVALS,
    Cell,
    Table,
    rows_of,
    several,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """Which heads of each group were selected for which variable, and what patching them does."""
    columns: dict[str, str | Cell] = {
        "group": "group",
        "desideratum": "desideratum",
        "selected": lambda row: f"{len(row['selected'])} of {row['heads']}",
        "accuracy": with_interval("accuracy"),
        "doing nothing": with_interval("do_nothing"),
        "heads": lambda row: " ".join(row["selected"]),
    }
    note = "Accuracy: how often patching the selected heads gives the desideratum's answer (§5.1). " + INTERVALS
    for row in rows_of(header):
        if row.get("tied"):
            found = several([" ".join(heads) for heads in row["tied"]])
            note += f" As good in validation for {row['group']}, {row['desideratum']}: {found}."
    return (table_of(header, f"roles of heads in {models_of(header)}", columns, rows_of(header), note),)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """One panel: per group and desideratum the accuracy of the selected heads."""
    rows = result.header.summary["rows"]
    groups, names = unique(rows, "group"), unique(rows, "desideratum")
    found = {(row["group"], row["desideratum"]): row for row in rows}

    def bar(group: str, name: str) -> Mark | None:
        row = found.get((group, name))
        return row and mark(
            row,
            "accuracy",
            f"{group}, {name}, {len(row['selected'])} of {quantity(row['heads'], 'head')}",
            "do_nothing",
        )

    series = tuple(Series(name, tuple(bar(group, name) for group in groups)) for name in names)
    panel = Bars("selected heads", groups, series, "accuracy")
    caption = f"How often patching the selected heads gives the desideratum's answer; tick: patching nothing. {BARS}"
    title = f"What each group carries in {models_of(result.header)}"
    return (plate(result, "roles", title, caption, (panel,)),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Per group and desideratum: how many heads were selected, their accuracy, and that of doing nothing."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), group=row["group"], desideratum=row["desideratum"])
        yield place.of("selected", len(row["selected"]))
        yield from of_row(place, row, {"accuracy": "accuracy", "do_nothing_accuracy": "do_nothing"})


def heads(result: Result) -> Iterator[Measurement]:
    """Per group, desideratum and head: its mask; 1 keeps the base run's output, 0 takes the source's."""
    circuit = Circuit.from_dict(result.header.summary["circuit"])
    for row in result.header.summary["rows"]:
        group = circuit.group(row["group"])
        masks = result.scores[f"{group.name}.{row['desideratum']}.mask"]
        place = replace(of_experiment(result.header), group=group.name, at=group.at, desideratum=row["desideratum"])
        for head, mask in zip(group.heads, masks.tolist(), strict=True):
            yield replace(place.at_head(head), kept=str(head) in row["selected"]).of("mask", mask)
