"""What results of CMAP are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import (
    Bars,
    Line,
    Plate,
    Series,
)
from nnsight_et.display.marks import BARS, drawn, mark, plate, unique
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.paper import PaperNumbers, paper_name
from nnsight_et.display.table import (
    INTERVALS,
    Table,
    number,
    rows_of,
    spread,
    table_of,
    with_interval,
)
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The recipient's accuracy with the donor's activations, beside both models' own."""
    summary = header.summary
    own = ", ".join(f"{name} alone {number(value)}" for name, value in summary["models"].items())
    drawn = summary["random"]
    control = f"; as many random heads {spread(drawn['mean'], drawn['std'])}" if drawn else ""
    columns = {"patched": "patched", "group": "group", "heads": "heads", "accuracy": with_interval("accuracy")}
    note = f"Accuracy of the recipient; {own}{control} (Fig. 4). {INTERVALS}"
    title = f"{summary['donor']} into {summary['recipient']}"
    return (table_of(header, title, columns, rows_of(header), note),)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """The outputs of each group, of all and of random heads; beside it the inputs, where they were patched."""
    summary = result.header.summary
    donor, recipient = summary["donor"], summary["recipient"]
    own = summary["models"]
    lines = tuple(
        Line(f"{name} alone", own[name], f"{name} alone: {number(own[name], 3)}") for name in (donor, recipient)
    )
    outputs = [row for row in summary["rows"] if row["patched"] == "output"]
    marks = [mark(row, "accuracy", f"{row['group']}, output of {quantity(row['heads'], 'head')}") for row in outputs]
    categories = [row["group"] for row in outputs]
    if summary["random"]:
        marks.append(drawn(summary["random"], "mean", "std", "mean_interval", "as many random heads"))
        categories.append("random heads")
    panels = [Bars("outputs", tuple(categories), (Series("outputs", tuple(marks)),), "accuracy", lines)]
    inputs = [row for row in summary["rows"] if row["patched"] != "output"]
    if inputs:
        groups, kinds = unique(inputs, "group"), unique(inputs, "patched")
        found = {(row["group"], row["patched"]): row for row in inputs}
        series = [
            Series(kind, tuple(mark(found[group, kind], "accuracy", f"{group}, {kind}") for group in groups))
            for kind in kinds
        ]
        panels.append(Bars("inputs", groups, tuple(series), "accuracy", lines))
    caption = f"Accuracy of {recipient} with {donor}'s activations; dashed: each model alone. {BARS}"
    return (plate(result, "cmap", f"{donor} into {recipient}", caption, tuple(panels)),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Both models' own accuracy, and the recipient's with the donor's activations."""
    summary = result.header.summary
    for name, value in summary["models"].items():
        alone = replace(of_experiment(result.header, name), condition="alone")
        yield alone.of("accuracy", value, summary.get("model_intervals", {}).get(name))
    recipient = of_experiment(result.header, summary["recipient"])
    for row in summary["rows"]:
        condition = f"{row['patched']} of {summary['donor']}"
        yield from of_row(replace(recipient, group=row["group"], condition=condition), row, {"accuracy": "accuracy"})
    if drawn := summary["random"]:
        place = replace(recipient, condition=f"output of {summary['donor']}, random heads")
        yield place.of("accuracy", drawn["mean"], drawn.get("mean_interval"))
        yield place.of("accuracy_std", drawn["std"])


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Both models' own accuracy, and the recipient's with a group's outputs."""
    pair = f"{paper_name(summary['donor'])} -> {paper_name(summary['recipient'])}"
    for side in ("donor", "recipient"):
        yield (pair, side), summary["models"][summary[side]]
    for row in summary["rows"]:
        if row["patched"] == "output":
            yield (pair, row["group"]), row["accuracy"]
