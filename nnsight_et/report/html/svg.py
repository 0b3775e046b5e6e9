"""SVG as an element tree: text is escaped by construction. A mark has a title; readers go from mark to mark.

Beside marks and labels: axes, with a plot's frame, its scale, grid and categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from nnsight_et.display.figures import Interval

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
    lines: list[str] = []
    for word in text.replace("_", " ").split(" "):
        if lines and (len(lines[-1]) + 1 + len(word)) * LETTER <= width - 4:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


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
    return f"{value + 0.0:.3f}".rstrip("0").rstrip(".").replace("-", "−") or "0"


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
