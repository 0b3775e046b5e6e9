"""Plates -> figure files for papers, by matplotlib, from the same data as report.html; needs the extra `figures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from nnsight_et.display.figures import Bars, Curves, Diagram, Figure, HeatMap, Impact, Plate, Scatter
from nnsight_et.report import paper_panels

FORMATS = ("pdf", "png", "svg")
SETTINGS: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters, not outlines
    "svg.fonttype": "none",
    "svg.hashsalt": "nnsight_et",  # the same figure gives the same file
    "savefig.dpi": 300,
}
PANEL = (3.3, 2.3)  # inches


def figure_files(plate: Plate, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """The plate's panels side by side, two in a row, in each of the formats, by file name."""
    colours = _colours(plate)
    with matplotlib.rc_context(SETTINGS):
        columns = min(len(plate.panels), 2)
        rows = -(-len(plate.panels) // columns)
        heights = [max(_height(panel) for panel in plate.panels[row * columns :][:columns]) for row in range(rows)]
        size = (columns * PANEL[0] * max(map(_width, plate.panels)), sum(heights) * PANEL[1])
        canvas = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        every = canvas.subplots(rows, columns, squeeze=False, height_ratios=heights)
        for panel, axes in zip(plate.panels, every.flat, strict=False):
            DRAW[type(panel)](axes, panel, colours)
            if len(plate.panels) > 1:
                axes.set_title(panel.title.replace("_", " "), fontsize=7.5, loc="left")
        for axes in every.flat[len(plate.panels) :]:
            axes.set_axis_off()
        handles = {
            name: line for axes in every.flat for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if len(handles) > 1:
            canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * columns)
        return {f"{plate.name}.{kind}": _saved(canvas, kind) for kind in formats}


def _saved(canvas: Canvas, kind: str) -> bytes:
    buffer = BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    canvas.savefig(buffer, format=kind, metadata=undated.get(kind))
    return buffer.getvalue()


def _colours(plate: Plate) -> dict[str, int]:
    names: list[str] = []
    for panel in plate.panels:
        if isinstance(panel, (Bars, Curves)):
            names += [series.name for series in panel.series]
        elif isinstance(panel, Scatter):
            names += [name for name, _ in panel.kinds]
        elif isinstance(panel, Impact):
            names += panel.names
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def _height(panel: Figure) -> float:
    if isinstance(panel, Diagram):
        return 0.5 + 0.4 * len(panel.nodes)
    if isinstance(panel, Bars) and len(panel.categories) > paper_panels.UPRIGHT:
        return 1.4
    return 1.4 if isinstance(panel, Scatter) else 1.0


def _width(panel: Figure) -> float:
    return max(1.0, len(panel.heads) / 45) if isinstance(panel, Impact) else 1.0


DRAW: dict[type[Figure], Callable[..., None]] = {
    HeatMap: paper_panels.heat_map,
    Diagram: paper_panels.diagram,
    Bars: paper_panels.bars,
    Curves: paper_panels.curves,
    Scatter: paper_panels.scatter,
    Impact: paper_panels.impact,
}
