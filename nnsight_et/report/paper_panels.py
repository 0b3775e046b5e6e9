"""The panels of figures for papers, drawn by matplotlib on axes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyBboxPatch, Rectangle

from nnsight_et.display.figures import Bars, Curves, Diagram, HeatMap, Impact, Mark, Scatter
from nnsight_et.report.colours import SCORES, SERIES
from nnsight_et.report.diagram_layout import FIRST, FOOT, LOGITS, WIDTH, counted, first_heads, layout, route

INK, SOFT, PALE = "#1b1f24", "#57606a", "#d7dce1"
UPRIGHT = 5  # categories whose names are not turned
SHAPES, DASHES = "osD^v", ("-", "--", ":", "-.")
WHISKER: dict[str, Any] = {"error_kw": {"elinewidth": 0.6, "capsize": 1.5, "capthick": 0.6}}


def heat_map(axes: Axes, panel: HeatMap, colours: Mapping[str, int]) -> None:
    """Cells as an image with its colour bar; kept heads framed, those beyond chance dotted, others hatched."""
    below, above = SCORES
    stops = (*below, *above[1:]) if panel.signed else below[::-1]
    shown = [
        [math.nan if cell.value is None or not cell.reached else panel.share(cell.value) for cell in row]
        for row in panel.cells
    ]
    layers = panel.axes[0] == "layer"
    image = axes.imshow(
        shown,
        cmap=LinearSegmentedColormap.from_list("scores", stops),
        vmin=-1 if panel.signed else 0,
        vmax=1,
        origin="lower" if layers else "upper",
        aspect="auto",
    )
    for y, row in enumerate(panel.cells):
        for x, cell in enumerate(row):
            corner = (x - 0.5, y - 0.5)
            if not cell.reached:
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="/////", edgecolor=PALE, linewidth=0))
            if cell.framed:
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=0.8))
            if cell.dotted:
                axes.plot(x, y, "o", color=INK, markersize=1.8, markeredgecolor="white", markeredgewidth=0.3)
    every = max(1, len(panel.columns) // 16)
    axes.set_xticks(range(0, len(panel.columns), every), [name.replace("_", "\n") for name in panel.columns[::every]])
    every = max(1, len(panel.rows) // 16)
    axes.set_yticks(range(0, len(panel.rows), every), panel.rows[::every])
    axes.set_xlabel(panel.axes[1])
    axes.set_ylabel(panel.axes[0])
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_ticks([panel.share(value) for value in panel.ticks], labels=[f"{value:.2g}" for value in panel.ticks])
    if panel.knee is not None:
        bar.set_label("score, logarithmic")


def diagram(axes: Axes, panel: Diagram, colours: Mapping[str, int]) -> None:
    """The circuit as in Figure 1."""
    plan = layout(panel)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(plan.height, 0)
    axes.set_axis_off()
    for index, position in enumerate(panel.positions):
        x = plan.column * (index + 0.5)
        axes.plot([x, x], [FIRST, plan.height - FOOT - 8], color=PALE, linewidth=0.8, zorder=0)
        axes.text(x, plan.height - FOOT + 6, position.replace("_", " "), ha="center", va="center")
    for arrow in panel.arrows:
        if arrow.source in plan.places and arrow.target in plan.places:
            corners, at = route(plan.places[arrow.source], plan.places[arrow.target])
            axes.plot(*zip(*corners[:-1], strict=True), color=SOFT, linewidth=1)
            axes.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": SOFT, "shrinkA": 0})
            if arrow.via:
                ring = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": SOFT}
                axes.text(*at, arrow.via[:1].upper(), ha="center", va="center", fontweight="bold", bbox=ring)
    top = plan.places[LOGITS]
    axes.text(
        top.x, top.y, LOGITS, ha="center", va="center", color="white", bbox={"boxstyle": "round", "facecolor": INK}
    )
    for node in panel.nodes:
        place = plan.places[node.name]
        left, up = place.x - place.half_width, place.y - place.half_height
        style: dict[str, Any] = {
            "boxstyle": "round,pad=0,rounding_size=7",
            "facecolor": "white",
            "edgecolor": SERIES[0],
        }
        axes.add_patch(FancyBboxPatch((left, up), 2 * place.half_width, 2 * place.half_height, **style))
        name = node.name.replace("_", "\n" if len(node.name) > 16 else " ")
        axes.text(place.x, place.y - 13, name, ha="center", va="center", fontweight="bold", linespacing=1)
        axes.text(place.x, place.y + 9, counted(node), ha="center", va="center")
        axes.text(place.x, place.y + 24, first_heads(node, 18), ha="center", va="center", fontsize=5.5)


def bars(axes: Axes, panel: Bars, colours: Mapping[str, int]) -> None:
    """Bars side by side with their error bars, ticks for patching nothing, and dashed lines."""
    width = min(0.8 / max(len(panel.series), 1), 0.5)
    for number, series in enumerate(panel.series):
        offset = (number - (len(panel.series) - 1) / 2) * width
        there = [(x + offset, mark) for x, mark in enumerate(series.marks) if mark]
        xs, values = [x for x, _ in there], [mark.value for _, mark in there]
        colour = SERIES[colours[series.name] % len(SERIES)]
        label = series.name if len(colours) > 1 else None
        axes.bar(
            xs, values, width * 0.92, color=colour, label=label, yerr=_errors([mark for _, mark in there]), **WHISKER
        )
        for x, mark in there:
            if mark.nothing is not None:
                axes.plot([x - width * 0.45, x + width * 0.45], [mark.nothing] * 2, color=INK, linewidth=1)
    for index, line in enumerate(panel.lines):
        style: dict[str, Any] = {"color": SERIES[4] if index == 0 else INK, "linestyle": "--" if index == 0 else ":"}
        axes.axhline(line.value, linewidth=1, label=line.name, **style)
    _categories(axes, panel.categories)
    _value_axis(axes, panel.value_name, [mark for series in panel.series for mark in series.marks if mark])


def curves(axes: Axes, panel: Curves, colours: Mapping[str, int]) -> None:
    """A line per series, each with its own shape and dashes."""
    for series in panel.series:
        there = [(x, mark) for x, mark in enumerate(series.marks) if mark]
        index = colours[series.name]
        errors = _errors([mark for _, mark in there])
        style: dict[str, Any] = {
            "color": SERIES[index % len(SERIES)],
            "marker": SHAPES[index % 5],
            "linestyle": DASHES[index % 4],
        }
        xs, values = [x for x, _ in there], [mark.value for _, mark in there]
        axes.errorbar(xs, values, errors, label=series.name, markersize=3, linewidth=1, elinewidth=0.6, **style)
    every = -(-len(panel.categories) // 12)
    axes.set_xticks(range(0, len(panel.categories), every), panel.categories[::every])
    axes.set_xlabel(panel.axis)
    _value_axis(axes, panel.value_name, [mark for series in panel.series for mark in series.marks if mark])


def scatter(axes: Axes, panel: Scatter, colours: Mapping[str, int]) -> None:
    """Points of each kind with their error bars, and the diagonal."""
    for name, points in panel.kinds:
        index = colours[name]
        x, y = [one.x for one in points], [one.y for one in points]
        style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "marker": SHAPES[index % 5], "linestyle": "none"}
        values = [mark.value for mark in x], [mark.value for mark in y]
        axes.errorbar(*values, _errors(y), _errors(x), label=name, markersize=3, elinewidth=0.4, **style)
    axes.axline((0, 0), slope=1, color=SOFT, linewidth=0.6, linestyle="--")
    axes.set_box_aspect(1)
    if panel.shares:
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(panel.axes[0])
    axes.set_ylabel(panel.axes[1])


def impact(axes: Axes, panel: Impact, colours: Mapping[str, int]) -> None:
    """Bars up for the first circuit and down for the second, pale where the head is no member."""
    xs = range(len(panel.heads))
    for side, (name, sign) in enumerate(zip(panel.names, (1, -1), strict=True)):
        colour = SERIES[colours[name] % len(SERIES)]
        filled = [colour if member[side] else PALE for member in panel.members]
        axes.bar(xs, [sign * value for value in panel.values], 0.8, color=filled)
        axes.bar([0], [0], color=colour, label=f"in {name}")
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.set_ylabel(panel.value_name)
    axes.set_xticks(xs, panel.heads, rotation=90, fontsize=5)


def _errors(marks: Sequence[Mark]) -> list[list[float]]:
    """How far each mark's interval goes below and above it; 0 where it has none, or does not hold the mark."""
    low = [max(mark.value - mark.interval[0], 0.0) if mark.interval else 0.0 for mark in marks]
    high = [max(mark.interval[1] - mark.value, 0.0) if mark.interval else 0.0 for mark in marks]
    return [low, high]


def _categories(axes: Axes, names: Sequence[str]) -> None:
    turned = len(names) > UPRIGHT
    shown = [name.replace("_", " " if turned else "\n") for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=40 if turned else 0, ha="right" if turned else "center")


def _value_axis(axes: Axes, name: str, marks: Sequence[Mark]) -> None:
    """From 0 to 1 where all numbers are shares."""
    axes.set_ylabel(name)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    if all(0 <= mark.value <= 1 for mark in marks):
        axes.set_ylim(0, 1.02)
