"""Scatter plots and causal impact as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import ImpactPlot, Point, Scatter
from nnsight_et.report.html.axes import TOP, Scale, range_of_ticks, reach, tick, y_axis, y_grid, y_name
from nnsight_et.report.html.charts import COLOURS
from nnsight_et.report.html.svg import WIDTH, add, drawing, mark, point

LEFT, SIDE = 50.0, 270.0
HALF, NARROW = 80.0, 9.0


def scatter(figure: Scatter, colours: Mapping[str, int]) -> Element:
    """Points with their intervals along both axes, and the diagonal; both axes have the same range."""
    bottom, right = TOP + SIDE, LEFT + SIDE
    svg = drawing(WIDTH, bottom + 38, figure.title)
    points = [one for _, kind in figure.kinds for one in kind]
    ends = [mark for one in points for mark in (one.x, one.y)]
    low, high = reach([end.value for end in ends], [end.interval for end in ends])
    low, high = (0.0, 1.0) if figure.shares else range_of_ticks(min(low, 0.0), high)
    x, y = Scale(low, high, LEFT, right), Scale(low, high, bottom, TOP)
    y_axis(svg, y, LEFT, right, figure.axes[1])
    for value in x.ticks:
        add(svg, "line", x1=x(value), x2=x(value), y1=TOP, y2=bottom, class_="axis" if abs(value) < 1e-9 else "grid")
        add(svg, "text", tick(value), x=x(value), y=bottom + 15, class_="middle")
    add(svg, "line", x1=LEFT, x2=right, y1=bottom, y2=TOP, class_="diagonal")
    for name, kind in figure.kinds:
        for one in kind:
            _point(svg, one, (x, y), colours[name])
    add(svg, "text", figure.axes[0], x=LEFT + SIDE / 2, y=bottom + 33, class_="middle name")
    return svg


def _point(svg: Element, one: Point, scales: tuple[Scale, Scale], colour: int) -> None:
    (x, y), made = scales, mark(svg, one.text)
    across, up = x(one.x.value), y(one.y.value)
    if one.x.interval:
        add(made, "line", x1=x(one.x.interval[0]), x2=x(one.x.interval[1]), y1=up, y2=up, class_="error faint")
    if one.y.interval:
        add(made, "line", y1=y(one.y.interval[0]), y2=y(one.y.interval[1]), x1=across, x2=across, class_="error faint")
    point(made, colour, across, up, f"s{colour % COLOURS} dot")


def impact(figure: ImpactPlot, colours: Mapping[str, int]) -> Element:
    """Bars up for the first circuit and down for the second, filled where the head is a member."""
    count = len(figure.heads)
    width = max(WIDTH, LEFT + 6.0 + count * NARROW)
    svg = drawing(width, TOP + 2 * HALF + 38, figure.title, count)
    _, high = range_of_ticks(0.0, max(figure.values, default=1.0))
    middle, right = TOP + HALF, width - 6
    up, down = Scale(0, high, middle, TOP), Scale(0, high, middle, middle + HALF)
    slot = (right - LEFT) / max(count, 1)
    for scale in (up, down):
        y_grid(svg, scale, LEFT, right)
    y_name(svg, figure.value_name, middle)
    for side, scale in enumerate((up, down)):
        for index, value in enumerate(figure.values):
            filled = f"s{colours[figure.names[side]] % COLOURS}" if figure.members[index][side] else "empty"
            made = mark(svg, figure.texts[index])
            x, edge = LEFT + slot * (index + 0.12), min(middle, scale(value))
            add(made, "rect", x=x, width=slot * 0.76, y=edge, height=abs(scale(value) - middle), class_=filled)
    for index, head in enumerate(figure.heads):
        x, y = LEFT + slot * (index + 0.5), middle + HALF + 6
        add(svg, "text", head, x=x, y=y + 3, class_="end small", transform=f"rotate(-90 {x:.1f} {y:.1f})")
    return svg
