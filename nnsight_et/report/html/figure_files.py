"""Plates -> figure files for papers: the page's SVG on light paper, and PDF and PNG made from it (extra `figures`)."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from nnsight_et.display.figures import FigureGroup
from nnsight_et.report.html import palette
from nnsight_et.report.html.drawing import DrawnGroup, Key, draw_group
from nnsight_et.report.html.parts import template
from nnsight_et.report.html.svg import LETTER, WIDTH

FORMATS = ("pdf", "png", "svg")
POINT = 3.3 * 72 / WIDTH  # a panel is 3.3 inches wide, a column of a paper; letters are of 7 points then
DOTS = 300  # per inch
GAP, TITLE, ROW, MARGIN = 16.0, 18.0, 18.0, 4.0
SWATCH, BETWEEN = 26.0, 18.0
Placed = list[tuple[float, float]]


def figure_files(plate: FigureGroup, formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """The plate's panels, two in a row, and its legend below, in each of the formats, by file name."""
    figure = draw_group(plate)
    return {f"{plate.name}.{kind}": _file(figure, kind) for kind in formats}


def _file(figure: DrawnGroup, kind: str) -> bytes:
    if kind == "svg":
        return _svg(figure, "pt").encode()
    import vl_convert

    text = _svg(figure, "")  # vl_convert takes a pixel for a point
    return vl_convert.svg_to_pdf(text) if kind == "pdf" else vl_convert.svg_to_png(text, ppi=DOTS)


def _svg(figure: DrawnGroup, unit: str) -> str:
    places, width, below = _panels(figure)
    keys, bottom = _legend(figure.legend, width, below)
    return template("figure.svg.j2").render(
        style=Markup(palette.on_paper()),
        plate=figure.plate,
        width=width,
        height=bottom + MARGIN,
        scale=POINT,
        unit=unit,
        panels=list(zip(figure.panels, places, strict=True)),
        keys=list(zip(figure.legend, keys, strict=True)),
        title=TITLE,
    )


def _panels(figure: DrawnGroup) -> tuple[Placed, float, float]:
    """Where the panels are, and the width and the height that they take."""
    columns = 1 if figure.wide else min(len(figure.panels), 2)
    column = max(panel.width for panel in figure.panels)
    places, y = [], MARGIN
    for first in range(0, len(figure.panels), columns):
        row = figure.panels[first : first + columns]
        places += [(index * (column + GAP), y) for index in range(len(row))]
        y += max(panel.height for panel in row) + (TITLE if any(panel.title for panel in row) else 0) + GAP
    return places, columns * column + (columns - 1) * GAP, y - GAP


def _legend(keys: Sequence[Key], width: float, y: float) -> tuple[Placed, float]:
    """Where the legend's entries are, in rows that are centred, and where they end."""
    rows: list[list[float]] = []
    for key in keys:
        size = SWATCH + LETTER * len(key.name) + BETWEEN
        if rows and sum(rows[-1]) + size <= width:
            rows[-1].append(size)
        else:
            rows.append([size])
    places = [
        (max((width - sum(row) + BETWEEN) / 2, 0) + sum(row[:index]), y + GAP / 2 + ROW * number)
        for number, row in enumerate(rows)
        for index in range(len(row))
    ]
    return places, y + (GAP / 2 + ROW * len(rows) if rows else 0)
