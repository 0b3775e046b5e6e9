"""Figures as data: what is drawn, and the text each mark shows. html/ draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

Interval = tuple[float, float]


@dataclass(frozen=True)
class DataPoint:
    """A number in a figure: its interval where there is one, and the text that says all about it."""

    value: float
    interval: Interval | None
    text: str
    nothing: float | None = None
    """The same number when nothing is patched."""


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map; `value` None: not measured."""

    value: float | None
    text: str
    reached: bool = True
    """False: by construction it cannot matter, and it was not run."""
    framed: bool = False
    """Kept in the circuit's group."""
    dotted: bool = False
    """Beyond chance."""


@dataclass(frozen=True)
class HeatMap:
    """A score per layer and head, or a share per row and column; row 0 is drawn at the bottom if it is a layer."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    limit: float
    """The colours end at -limit and limit; at 0 and limit if not `signed`."""
    signed: bool = True
    axes: tuple[str, str] = ("layer", "head")
    knee: float | None = None
    """Far above it colours grow with the logarithm of a value, far below in proportion; None: always in proportion."""

    def share(self, value: float) -> float:
        """Where a value stands among the colours, from -1 to 1; beyond the limit, at the end."""
        size = min(abs(value) / self.limit, 1.0)
        if self.knee is not None:
            size = math.log1p(size * self.limit / self.knee) / math.log1p(self.limit / self.knee)
        return math.copysign(size, value)

    @property
    def ticks(self) -> tuple[float, ...]:
        """The values that a colour bar names, ascending."""
        above = (self.limit,) if self.knee is None else (self.knee, self.limit)
        return (*(-value for value in reversed(above)), 0.0, *above) if self.signed else (0.0, *above)


@dataclass(frozen=True)
class Node:
    """A group of heads, or of MLPs, in the diagram of a circuit."""

    name: str
    at: str
    count: int
    heads: tuple[str, ...]
    text: str
    kind: str = "head"
    """What `heads` are the names of: "head" or "MLP"."""


@dataclass(frozen=True)
class Arrow:
    """The output of one group reaches another, or the logits, through its queries, keys or values, or MLPs' input."""

    source: str
    target: str
    via: str | None


@dataclass(frozen=True)
class Diagram:
    """A circuit as in Figure 1: groups at positions, the last-found group lowest, the logits above all."""

    title: str
    positions: tuple[str, ...]
    """From left to right."""
    nodes: tuple[Node, ...]
    """From the logits down."""
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True)
class Series:
    """Marks of one name, one per category of the figure; None where there is no number."""

    name: str
    marks: tuple[DataPoint | None, ...]


@dataclass(frozen=True)
class Line:
    """A dashed horizontal line: a number to hold the others against."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Bars:
    """Bars in groups, one bar per series in each category."""

    title: str
    categories: tuple[str, ...]
    series: tuple[Series, ...]
    value_name: str
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Curves:
    """Series over the categories of an axis."""

    title: str
    categories: tuple[str, ...]
    axis: str
    series: tuple[Series, ...]
    value_name: str


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot."""

    x: DataPoint
    y: DataPoint
    text: str


@dataclass(frozen=True)
class Scatter:
    """Points of several kinds around the diagonal."""

    title: str
    axes: tuple[str, str]
    kinds: tuple[tuple[str, tuple[Point, ...]], ...]
    shares: bool = True
    """Whether both axes hold numbers from 0 to 1."""


@dataclass(frozen=True)
class ImpactPlot:
    """Heads of two circuits by causal impact (Fig. A5, A7): above the first name's members, below the second's."""

    title: str
    names: tuple[str, str]
    heads: tuple[str, ...]
    values: tuple[float, ...]
    members: tuple[tuple[bool, bool], ...]
    texts: tuple[str, ...]
    value_name: str = "|patching score|"


Figure = HeatMap | Diagram | Bars | Curves | Scatter | ImpactPlot


@dataclass(frozen=True, repr=False)
class FigureGroup:
    """Figures that are read together: the panels of one figure of the paper, and the words under them."""

    name: str
    """For files and anchors: the experiment's name and what is shown."""
    title: str
    caption: str
    panels: tuple[Figure, ...]

    def __repr__(self) -> str:
        return f"<figure {self.name}: {self.title}>"
