"""Bars, curves, scatter plots and causal impact as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Bars, Curves, DataPoint, ImpactPlot, Point, Scatter, Series
from nnsight_et.report.html.svg import (
    TOP,
    WIDTH,
    Scale,
    add,
    categories,
    drawing,
    mark,
    point,
    range_of_ticks,
    reach,
    room_below,
    tick,
    y_axis,
    y_grid,
    y_name,
)

LEFT, PLOT, RIGHT = 50.0, 150.0, WIDTH - 6
COLOURS = 6
ASIDE = 2.5  # between the marks of two curves in one category, so that none hides the other


def bars(figure: Bars, colours: Mapping[str, int]) -> Element:
    """Bars beside each other in each category, with error bars, ticks and dashed lines."""
    slot = (RIGHT - LEFT) / max(len(figure.categories), 1)
    bottom = TOP + PLOT
    svg = drawing(WIDTH, bottom + room_below(figure.categories, slot), figure.title, len(figure.categories))
    scale = Scale(*_range(figure.series, [line.value for line in figure.lines]), bottom, TOP)
    y_axis(svg, scale, LEFT, RIGHT, figure.value_name)
    xs = [LEFT + slot * (index + 0.5) for index in range(len(figure.categories))]
    width = min(30.0, 0.8 * slot / max(len(figure.series), 1))
    for number, series in enumerate(figure.series):
        offset = (number - (len(figure.series) - 1) / 2) * width
        for x, one in zip(xs, series.marks, strict=True):
            if one:
                _bar(svg, one, scale, (x + offset, width), f"s{colours[series.name] % COLOURS}")
    for index, line in enumerate(figure.lines):
        made = mark(svg, line.text, classes=f"rule r{index}")
        add(made, "line", x1=LEFT, x2=RIGHT, y1=scale(line.value), y2=scale(line.value))
    categories(svg, figure.categories, xs, bottom, slot)
    return svg


def _bar(svg: Element, one: DataPoint, scale: Scale, place: tuple[float, float], colour: str) -> None:
    x, width = place
    made, top, zero = mark(svg, one.text), scale(one.value), scale(0)
    add(made, "rect", x=x - width / 2, y=TOP, width=width, height=PLOT, class_="hit")
    left, inner = x - width * 0.44, width * 0.88
    add(made, "rect", x=left, y=min(top, zero), width=inner, height=max(abs(zero - top), 0.8), class_=colour)
    if one.nothing is not None:
        add(made, "line", x1=left, x2=left + inner, y1=scale(one.nothing), y2=scale(one.nothing), class_="nothing")
    _error(made, one, scale, x)


def curves(figure: Curves, colours: Mapping[str, int]) -> Element:
    """A line through the marks of each series, with error bars."""
    count = len(figure.categories)
    slot = (RIGHT - LEFT) / max(count, 1)
    bottom = TOP + PLOT
    svg = drawing(WIDTH, bottom + 38, figure.title, count)
    scale = Scale(*_range(figure.series, []), bottom, TOP)
    y_axis(svg, scale, LEFT, RIGHT, figure.value_name)
    xs = [LEFT + slot * (index + 0.5) for index in range(count)]
    for number, series in enumerate(figure.series):
        colour, aside = colours[series.name] % COLOURS, ASIDE * (number - (len(figure.series) - 1) / 2)
        there = [(x + aside, one) for x, one in zip(xs, series.marks, strict=True) if one]
        path = " ".join(f"{x:.1f},{scale(one.value):.1f}" for x, one in there)
        add(svg, "polyline", points=path, class_=f"curve l{colour}")
        for x, one in there:
            made = mark(svg, one.text)
            _error(made, one, scale, x, f"l{colour}")
            point(made, colour, x, scale(one.value), f"s{colour} dot")
    every = max(1, -(-count // 12))
    shown = [(name if index % every == 0 or index == count - 1 else "") for index, name in enumerate(figure.categories)]
    categories(svg, shown, xs, bottom, slot * every)
    add(svg, "text", figure.axis, x=(LEFT + RIGHT) / 2, y=bottom + 33, class_="middle name")
    return svg


def _error(parent: Element, one: DataPoint, scale: Scale, x: float, colour: str = "") -> None:
    if one.interval:
        low, high = (scale(end) for end in one.interval)
        path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 2.5:.1f} {low:.1f}h5M{x - 2.5:.1f} {high:.1f}h5"
        add(parent, "path", d=path, class_=f"error {colour}".strip())


def _range(series: Sequence[Series], others: Sequence[float]) -> tuple[float, float]:
    """From 0 to 1 for shares; further where numbers are."""
    marks = [one for one_series in series for one in one_series.marks if one]
    low, high = reach([*(one.value for one in marks), *others], [one.interval for one in marks])
    return (0.0, 1.0) if low >= 0 and high <= 1 else range_of_ticks(min(low, 0.0), max(high, 1.0))


SIDE = 270.0
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
