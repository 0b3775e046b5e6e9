"""Where a circuit diagram's boxes and arrows are: positions from left to right, the logits on top; y grows down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnsight_et.display.figures import Diagram, Node

LOGITS = "logits"
WIDTH = 360.0
BOX, GAP = 66.0, 42.0
FIRST, PILL, FOOT = 6.0, 22.0, 22.0
TIP = 5.0  # between an arrow's tip and the box
Corner = tuple[float, float]


@dataclass(frozen=True)
class NodeBox:
    """Where a box is: its column and row, its middle, and its half sizes."""

    column: int
    row: int
    x: float
    y: float
    half_width: float
    half_height: float


@dataclass(frozen=True)
class DiagramLayout:
    """The places of the groups and of the logits, by name, and the size of the whole."""

    places: dict[str, NodeBox]
    column: float
    height: float


def layout(figure: Diagram) -> DiagramLayout:
    """Each group in a row of its own, so that no two boxes overlap; the logits above the first group."""
    column = WIDTH / max(len(figure.positions), 1)
    half = min(column / 2 - 6, 80.0)
    first = figure.positions.index(figure.nodes[0].at) if figure.nodes else 0
    places = {LOGITS: NodeBox(first, 0, column * (first + 0.5), FIRST + PILL / 2, 30.0, PILL / 2)}
    for row, node in enumerate(figure.nodes):
        index = figure.positions.index(node.at)
        y = FIRST + PILL + GAP + row * (BOX + GAP) + BOX / 2
        places[node.name] = NodeBox(index, row + 1, column * (index + 0.5), y, half, BOX / 2)
    return DiagramLayout(places, column, FIRST + PILL + len(figure.nodes) * (BOX + GAP) + FOOT + 8)


def route(source: NodeBox, target: NodeBox) -> tuple[Sequence[Corner], Corner]:
    """An arrow's corners, and where its letter is.

    Straight up to the next box of the same column; round the boxes between; up and across to another column.
    """
    top, foot = source.y - source.half_height, target.y + target.half_height + TIP
    if source.column == target.column and source.row == target.row + 1:
        return ((source.x, top), (source.x, foot)), (source.x, (top + foot) / 2 + 5)
    if source.column == target.column:
        edge = source.x + source.half_width
        end = (target.x + target.half_width + 1, target.y)
        return ((edge, source.y), (edge + 5, source.y), (edge + 5, target.y), end), (
            edge + 2,
            (source.y + top) / 2 - 25,
        )
    side = -1 if source.column < target.column else 1
    end = (target.x + side * (target.half_width + TIP), target.y)
    return ((source.x, top), (source.x, target.y), end), (source.x, (top + target.y) / 2)


def first_heads(node: Node, room: int) -> str:
    """As many of the group's heads as there is room for, the most important first."""
    for count in range(len(node.heads), 0, -1):
        more = f" +{node.count - count}" if count < node.count else ""
        if len(text := " ".join(node.heads[:count]) + more) <= room:
            return text
    return ""


def head_count(node: Node) -> str:
    """How many heads, or MLPs, the group has, in words."""
    return f"{node.count or 'no'} {node.kind}{'s' * (node.count != 1)}"
