"""A circuit as in Figure 1, as SVG: groups at their positions, arrows for queries, keys and values.

Positions go from left to right, the logits are on top; y grows down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Arrow, Diagram, Node
from nnsight_et.report.html.svg import LETTER, LINE, add, drawing, label, lines_of, mark, shortened_text

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


SMALL = 0.96  # of a letter's width


def circuit(figure: Diagram) -> Element:
    """Boxes with a group's name, its count and its first heads, and the arrows between them."""
    places = (plan := layout(figure)).places
    svg = drawing(WIDTH, plan.height, figure.title)
    for index, position in enumerate(figure.positions):
        x = plan.column * (index + 0.5)
        add(svg, "line", x1=x, x2=x, y1=FIRST, y2=plan.height - FOOT - 8, class_="lane")
        label(svg, position, x, plan.height - FOOT + 6, plan.column)
    for arrow in figure.arrows:
        if arrow.source in places and arrow.target in places:
            _arrow(svg, places[arrow.source], places[arrow.target], arrow)
    top = places[LOGITS]
    size = {"width": 2 * top.half_width, "height": 2 * top.half_height, "rx": top.half_height}
    add(svg, "rect", x=top.x - top.half_width, y=top.y - top.half_height, class_="logits", **size)
    add(svg, "text", LOGITS, x=top.x, y=top.y + 4, class_="middle")
    for node in figure.nodes:
        _box(svg, node, places[node.name])
    return svg


def _box(svg: Element, node: Node, place: NodeBox) -> None:
    made = mark(svg, node.text, classes="node")
    left, width = place.x - place.half_width, 2 * place.half_width
    classes = "box" if node.count else "box without"
    add(made, "rect", x=left, y=place.y - BOX / 2, width=width, height=BOX, rx=7.0, class_=classes)
    room = int((width - 8) / LETTER)
    name = [shortened_text(line, room) for line in lines_of(node.name, width - 12)][:2]
    for index, line in enumerate(name):
        y = place.y - 12 + (index - len(name) / 2 + 0.5) * LINE
        add(made, "text", line, x=place.x, y=y, class_="middle strong")
    add(made, "text", head_count(node), x=place.x, y=place.y + 10, class_="middle")
    heads = first_heads(node, int((width - 8) / (SMALL * LETTER)))
    add(made, "text", heads, x=place.x, y=place.y + 25, class_="middle small")


def _arrow(svg: Element, source: NodeBox, target: NodeBox, arrow: Arrow) -> None:
    corners, at = route(source, target)
    into = f"{arrow.target}'s {arrow.via} input" if arrow.via else arrow.target
    made = mark(svg, f"{arrow.source} acts on {into}", classes=f"arrow {arrow.via or 'direct'}")
    add(made, "path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners), marker_end="url(#tip)")
    if arrow.via:
        add(made, "circle", cx=at[0], cy=at[1], r=9.0)
        add(made, "text", arrow.via[:1].upper(), x=at[0], y=at[1] + 4, class_="middle strong")
