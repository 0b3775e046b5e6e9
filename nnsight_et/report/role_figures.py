"""The figures of what groups of heads carry: DCM, activation patching (Fig. 3) and CMAP (Fig. 4)."""

from __future__ import annotations

from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import Bars, Line, Mark, Plate, Series
from nnsight_et.display.marks import BARS, drawn, mark, plate, unique
from nnsight_et.display.table import number
from nnsight_et.results.headers import models_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def dcm(result: Result, study: Study) -> tuple[Plate, ...]:
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


def activation_patching(result: Result, study: Study) -> tuple[Plate, ...]:
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


def cmap(result: Result, study: Study) -> tuple[Plate, ...]:
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
