"""Heat maps as SVG. A colour is a class, d0 to d40 or q0 to q20, so that each colour scheme has its own."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Cell, HeatMap
from nnsight_et.report.html.svg import (
    LETTER,
    LINE,
    WIDTH,
    add,
    drawing,
    label,
    lines_of,
    mark,
    shortened_text,
    tick,
    y_name,
)

SIGNED, UNSIGNED = 20, 20  # steps from 0 to the end of the colours
TOP, RIGHT = 4.0, WIDTH - 4
BAR = 150.0
LONGEST = 24  # letters of a row's name; the cells' texts have all of it
SMALL = 14.0  # the height of cells with thin frames


def heat_map(figure: HeatMap) -> Element:
    """A cell per row and column; kept heads framed, those beyond chance dotted, those that cannot reach hatched."""
    layers = figure.axes[0] == "layer"
    names = [shortened_text(name, LONGEST) for name in figure.rows]
    left = 22.0 + LETTER * max((len(name) for name in names), default=1)
    width = (RIGHT - left) / len(figure.columns)
    height = max(min(24.0, width), 7.0)
    bottom = TOP + height * len(figure.rows)
    below = LINE * max(len(lines_of(name, width)) for name in figure.columns)
    svg = drawing(WIDTH, bottom + below + 46, figure.title, len(figure.columns))
    order = list(range(len(figure.rows)))
    for place, index in enumerate(reversed(order) if layers else order):
        y = TOP + place * height
        if index % max(1, math.ceil(14 / height)) == 0:
            add(svg, "text", names[index], x=left - 4, y=y + height / 2 + 4, class_="end")
        for column, cell in enumerate(figure.cells[index]):
            _cell(svg, figure, cell, (left + column * width, y), (width, height))
    every = 1 if not layers or width > 16 else 4
    for column, name in enumerate(figure.columns):
        if column % every == 0:
            label(svg, name, left + (column + 0.5) * width, bottom + 12, width * every)
    y_name(svg, figure.axes[0], (TOP + bottom) / 2)
    add(svg, "text", figure.axes[1], x=left, y=bottom + below + 18, class_="name")
    _colour_bar(svg, figure, bottom + below + 10)
    return svg


def colour(value: float, figure: HeatMap) -> str:
    """The class of a value's colour; beyond the limit, that of the limit."""
    share = figure.share(value)
    return f"d{round(SIGNED + SIGNED * share)}" if figure.signed else f"q{round(UNSIGNED * max(share, 0.0))}"


def _cell(svg: Element, figure: HeatMap, cell: Cell, corner: tuple[float, float], size: tuple[float, float]) -> None:
    (x, y), (width, height) = corner, size
    filled = "hatched" if not cell.reached else "unmeasured" if cell.value is None else colour(cell.value, figure)
    mark(svg, cell.text, "rect", filled, x=x, y=y, width=width, height=height)
    if cell.framed:
        inset, line = (1.0, 1.6) if height > SMALL else (0.4, 0.9)
        framed = {"width": width - 2 * inset, "height": height - 2 * inset, "stroke_width": line}
        add(svg, "rect", x=x + inset, y=y + inset, class_="frame", **framed)
    if cell.dotted:
        add(svg, "circle", cx=x + width / 2, cy=y + height / 2, r=min(2.4, height / 6), class_="beyond")


def _colour_bar(svg: Element, figure: HeatMap, y: float) -> None:
    steps = 2 * SIGNED + 1 if figure.signed else UNSIGNED + 1
    kind, x = "d" if figure.signed else "q", RIGHT - BAR - 20
    for step in range(steps):
        add(svg, "rect", x=x + step * BAR / steps, y=y, width=BAR / steps + 0.3, height=8.0, class_=f"{kind}{step}")
    plus = "+" if figure.signed else ""
    named = [value for value in figure.ticks if abs(value) != figure.knee]
    texts = {figure.share(value): f"{plus if value > 0 else ''}{tick(value)}" for value in named}
    if figure.knee is not None:  # its marks stand too near to 0 for numbers of their own
        texts.pop(0.0)
        texts[0.0 if figure.signed else 0.5] = f"log beyond {'±' * figure.signed}{figure.knee:.2g}"
    for share, text in texts.items():
        along = (1 + share) / 2 if figure.signed else share
        add(svg, "text", text, x=x + along * BAR, y=y + 20, class_="middle small")
