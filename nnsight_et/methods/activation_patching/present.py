"""What results of activation patching are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import (
    Bars,
    Mark,
    Plate,
    Series,
)
from nnsight_et.display.marks import BARS, drawn, plate, unique
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import (
    INTERVALS,
    Cell,
    Table,
    rows_of,
    spread,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """How often the selected heads, patched in each model, give the desideratum's answer."""
    columns: dict[str, str | Cell] = {key: key for key in ("model", "group", "desideratum", "heads")}
    columns["accuracy"] = lambda row: spread(row["mean"], row["std"], row.get("mean_interval"))
    columns["doing nothing"] = with_interval("do_nothing")
    note = f"Mean and standard deviation over draws of fresh examples (Fig. 3). {INTERVALS}"
    return (table_of(header, "functionality", columns, rows_of(header), note),)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """A panel per group: desiderata by models."""
    rows = result.header.summary["rows"]
    models, names = unique(rows, "model"), unique(rows, "desideratum")
    found = {(row["group"], row["model"], row["desideratum"]): row for row in rows}

    def bar(group: str, model: str, name: str) -> Mark | None:
        row = found.get((group, model, name))
        what = f"{model}, {name}, {quantity(row['heads'], 'head')}" if row else ""
        return row and drawn(row, "mean", "std", "mean_interval", what, "do_nothing")

    panels = tuple(
        Bars(
            group,
            names,
            tuple(Series(model, tuple(bar(group, model, name) for name in names)) for model in models),
            "accuracy",
        )
        for group in unique(rows, "group")
    )
    caption = (
        "How often the desideratum's answer is given when each group's selected heads are patched, in every model; "
        f"tick: patching nothing. {BARS}"
    )
    return (plate(result, "functionality", "Functionality of the groups across models", caption, panels),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Per model, group and desideratum: the selected heads' accuracy, and that of doing nothing."""
    for row in result.header.summary["rows"]:
        place = of_experiment(result.header, row["model"])
        place = replace(place, group=row["group"], desideratum=row["desideratum"])
        yield from of_row(place, row, {"accuracy": "mean", "do_nothing_accuracy": "do_nothing"})
        yield place.of("accuracy_std", row["std"])


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Per model, group and desideratum: the mean accuracy."""
    for row in summary["rows"]:
        yield (f"{paper_name(row['model'])}/{row['group']}", row["desideratum"]), row["mean"]
        if row["group"] == "position_transmitter":  # Table A11 is about this group in llama
            yield (row["desideratum"], "accuracy"), row["mean"]
