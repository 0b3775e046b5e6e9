"""Figures as SVG: bars, curves, scatter plots, causal impact and heat maps.

An element tree: text is escaped by construction. A mark has a title; readers go from mark to mark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from nnsight_et.display.figures import (
    Bars,
    Cell,
    Curves,
    DataPoint,
    HeatMap,
    ImpactPlot,
    Interval,
    Point,
    Scatter,
    Series,
)

WIDTH = 360.0
LETTER = 5.9  # the mean width of a letter at the size of a label
LINE = 12.0
SHAPES = 5
Value = str | float | None


def drawing(width: float, height: float, label: str, columns: int = 1) -> Element:
    """An empty figure; arrow keys go through its marks, up and down by `columns`."""
    size = {"viewBox": f"0 0 {_plain(width)} {_plain(height)}", "width": _plain(width), "height": _plain(height)}
    return Element("svg", {**size, "role": "group", "aria-label": label, "tabindex": "0", "data-columns": str(columns)})


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: Value) -> Element:
    """A new element in `parent`; `class_` and underscores are spelt as SVG has them, None is left out."""
    spelt = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    made = SubElement(parent, tag, {key: _plain(value) for key, value in spelt.items() if value is not None})
    made.text = text
    return made


def mark(parent: Element, text: str, tag: str = "g", classes: str = "", **attributes: Value) -> Element:
    """A mark: what it says is shown when the pointer or the arrow keys reach it."""
    made = add(parent, tag, class_=f"m {classes}".strip(), **attributes)
    add(made, "title", text)
    return made


def lines_of(text: str, width: float) -> list[str]:
    """A label in lines of about `width`, broken where words end."""
    most = max(int((width - 4) / LETTER), 1)
    return wrap(text.replace("_", " "), most, break_long_words=False, break_on_hyphens=False) or [""]


def shortened_text(text: str, room: int) -> str:
    """The text, or the beginning of it, in at most `room` letters."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def label(parent: Element, text: str, x: float, y: float, width: float) -> None:
    """A label in lines around x, the first one at y."""
    for index, line in enumerate(lines_of(text, width)):
        add(parent, "text", line, x=x, y=y + index * LINE, class_="middle")


def point(parent: Element, shape: int, x: float, y: float, classes: str) -> None:
    """A point in one of SHAPES shapes, so that colour is not all that tells series apart."""
    r = 3.6
    if shape % SHAPES == 0:
        add(parent, "circle", cx=x, cy=y, r=r, class_=classes)
        return
    corners = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -r - 1), (r + 1, r), (-r - 1, r)),
        3: ((0, -r - 1.4), (r + 1.4, 0), (0, r + 1.4), (-r - 1.4, 0)),
        4: ((0, r + 1), (r + 1, -r), (-r - 1, -r)),
    }[shape % SHAPES]
    add(parent, "polygon", points=" ".join(f"{_plain(x + a)},{_plain(y + b)}" for a, b in corners), class_=classes)


def markup(element: Element) -> Markup:
    """The element as text for a page."""
    return Markup(tostring(element, encoding="unicode", short_empty_elements=False))


def _plain(value: Value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
TOP = 8.0


@dataclass(frozen=True)
class Scale:
    """Numbers low to high -> places from start to end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; those outside are at the ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Four to six round numbers."""
        step = step_of(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def step_of(size: float) -> float:
    """The distance of the ticks on an axis of this size."""
    return next((step for step in STEPS if size / step <= 5.0001), size / 4)


def range_of_ticks(low: float, high: float) -> tuple[float, float]:
    """The range widened to the next ticks."""
    step = step_of(high - low or 0.1)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step or step


def reach(values: Sequence[float], intervals: Sequence[Interval | None]) -> tuple[float, float]:
    """The smallest and largest number among values and the ends of intervals."""
    ends = [*values, *(end for interval in intervals if interval for end in interval)]
    return min(ends, default=0.0), max(ends, default=1.0)


def tick(value: float) -> str:
    """A tick's number, without zeros it does not need."""
    text = f"{value:.2g}" if 0 < abs(value) < 0.0005 else f"{value + 0.0:.3f}".rstrip("0").rstrip(".")
    return text.replace("-", "−")


def y_axis(parent: Element, scale: Scale, left: float, right: float, name: str) -> None:
    """Grid lines with their numbers, and the axis's name along it."""
    y_grid(parent, scale, left, right)
    y_name(parent, name, (scale.start + scale.end) / 2)


def y_grid(parent: Element, scale: Scale, left: float, right: float) -> None:
    """Grid lines with their numbers."""
    for value in scale.ticks:
        y = scale(value)
        add(parent, "line", x1=left, x2=right, y1=y, y2=y, class_="axis" if abs(value) < 1e-9 else "grid")
        add(parent, "text", tick(value), x=left - 5, y=y + 4, class_="end")


def y_name(parent: Element, name: str, middle: float) -> None:
    """The name of a vertical axis, along it."""
    add(parent, "text", name, x=11.0, y=middle, class_="middle name", transform=f"rotate(-90 11 {middle:.1f})")


def needs_turning(names: Sequence[str], slot: float) -> bool:
    """Whether a label is wider than its slot even when it is broken into lines."""
    return any(len(line) * LETTER > slot for name in names for line in lines_of(name, slot))


def room_below(names: Sequence[str], slot: float) -> float:
    """The height that the labels of categories take."""
    if needs_turning(names, slot):
        return 14 + 0.72 * LETTER * max(len(name) for name in names)
    return 8 + LINE * max((len(lines_of(name, slot)) for name in names), default=1)


def categories(parent: Element, names: Sequence[str], xs: Sequence[float], y: float, slot: float) -> None:
    """The categories' labels below the axis, in lines or, where they are too long, turned."""
    turned = needs_turning(names, slot)
    for name, x in zip(names, xs, strict=True):
        if turned:
            text = name.replace("_", " ")
            add(parent, "text", text, x=x, y=y + 13, class_="end", transform=f"rotate(-45 {x:.1f} {y + 10:.1f})")
        else:
            label(parent, name, x, y + 14, slot)


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


SIGNED, UNSIGNED = 20, 20  # steps from 0 to the end of the colours
MAP_TOP, MAP_RIGHT = 4.0, WIDTH - 4
BAR = 150.0
LONGEST = 24  # letters of a row's name; the cells' texts have all of it
SMALL = 14.0  # the height of cells with thin frames


def heat_map(figure: HeatMap) -> Element:
    """A cell per row and column; kept heads framed, those beyond chance dotted, those that cannot reach hatched."""
    layers = figure.axes[0] == "layer"
    names = [shortened_text(name, LONGEST) for name in figure.rows]
    left = 28.0 + LETTER * max((len(name) for name in names), default=1)
    width = (MAP_RIGHT - left) / len(figure.columns)
    height = max(min(24.0, width), 7.0)
    bottom = MAP_TOP + height * len(figure.rows)
    below = LINE * max(len(lines_of(name, width)) for name in figure.columns)
    svg = drawing(WIDTH, bottom + below + 46, figure.title, len(figure.columns))
    order = list(range(len(figure.rows)))
    for place, index in enumerate(reversed(order) if layers else order):
        y = MAP_TOP + place * height
        if index % max(1, math.ceil(14 / height)) == 0:
            add(svg, "text", names[index], x=left - 4, y=y + height / 2 + 4, class_="end")
        for column, cell in enumerate(figure.cells[index]):
            _cell(svg, figure, cell, (left + column * width, y), (width, height))
    every = 1 if not layers or width > 16 else 4
    for column, name in enumerate(figure.columns):
        if column % every == 0:
            label(svg, name, left + (column + 0.5) * width, bottom + 12, width * every)
    y_name(svg, figure.axes[0], (MAP_TOP + bottom) / 2)
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
    kind, x = "d" if figure.signed else "q", MAP_RIGHT - BAR - 20
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
