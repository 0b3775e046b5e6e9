"""Axes: a plot's frame, its scales, grid and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Interval
from nnsight_et.report.html.svg import LETTER, LINE, add, label, lines_of

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
