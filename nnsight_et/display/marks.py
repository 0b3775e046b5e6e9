"""Marks of a figure: a number, its interval, and the text that says both."""

from __future__ import annotations

from nnsight_et.display.figures import DataPoint, Figure, FigureGroup
from nnsight_et.display.table import Bounds, number
from nnsight_et.results.headers import name_of
from nnsight_et.results.store import Result

BARS = "Error bars: 95% intervals over prompts."


def plate(result: Result, what: str, title: str, caption: str, panels: tuple[Figure, ...]) -> FigureGroup:
    """The experiment's figures of one kind."""
    return FigureGroup(f"{name_of(result.header)}-{what}", title, caption, panels)


def spread_mark(
    mean: float | None, std: float | None, bounds: Bounds | None, what: str, nothing: float | None = None
) -> DataPoint | None:
    """A mean over draws, with its interval, or one standard deviation to each side where there is none."""
    if mean is not None and std is not None and bounds is None:
        bounds = [mean - std, mean + std]
        what += f" (± {number(std, 3)} over draws)"
    return value_mark(mean, bounds, what, nothing)


def value_mark(value: float | None, bounds: Bounds | None, what: str, nothing: float | None = None) -> DataPoint | None:
    """A number with its interval, if it has one, and that of patching nothing; None where there is no number."""
    if value is None:
        return None
    low, high = bounds or (None, None)
    text = f"{what}: {number(value, 3)}"
    text += f" [{number(low, 3)}, {number(high, 3)}]" if low is not None and high is not None else ""
    text += f"; patching nothing {number(nothing, 3)}" if nothing is not None else ""
    return DataPoint(value, (low, high) if low is not None and high is not None else None, text, nothing)
