"""A circuit as in Figure 1, as SVG: groups at their positions, arrows for queries, keys and values.

Positions go from left to right, the logits are on top; y grows down. Each group has a row of its own, so that no line
across meets a box. A line up is above its own box, or beside its column where another box is in the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Arrow, Diagram, Node
from nnsight_et.report.html.svg import LETTER, LINE, WIDTH, add, drawing, label, lines_of, mark, shortened_text

LOGITS = "logits"
BOX, GAP = 66.0, 42.0
NARROW, WIDE = 56.0, 80.0  # half a box's width: at least, and at most
FIRST, PILL = 6.0, 22.0
TIP = 5.0  # between an arrow's tip and the box
ROUND = 9.0  # radius of an arrow's letter
PORT, LANE, EDGE = 40.0, 9.0, 6.0  # free beside boxes: for arrows that end there, for each line up, for nothing
PORTS = {"query": -20.0, "value": 20.0}  # where arrows end at a side of a box, from its middle
SLOT, RISE = 22.0, 12.0  # a line to a side leaves the top so far from its middle, and turns so far above
Corner = tuple[float, float]
Cell = tuple[int, int]
"""Column and row; the logits are in row 0."""


@dataclass(frozen=True)
class NodeBox:
    """Where a box is: its middle, and its half sizes."""

    x: float
    y: float
    half_width: float
    half_height: float


class Turn(NamedTuple):
    """How an arrow goes: up on a side of its source, -1 left, 1 right, 0 in the middle; to an end of its target."""

    up: int
    end: int
    beside: bool
    """Whether it goes up beside the column and not above the box."""


class Way(NamedTuple):
    """An arrow's corners, and the middle of its letter."""

    corners: tuple[Corner, ...]
    letter: Corner


@dataclass(frozen=True)
class DiagramLayout:
    """The places of the groups and of the logits, by name; the middle of each column; the arrows; and the size."""

    places: dict[str, NodeBox]
    columns: tuple[float, ...]
    half: float
    """Half a box's width."""
    ways: dict[Arrow, Way]
    width: float
    height: float


def layout(figure: Diagram) -> DiagramLayout:
    """Where all of a diagram is: no two of its boxes and letters overlap, and no line meets one that is not its own."""
    first = figure.positions.index(figure.nodes[0].at) if figure.nodes else 0
    cells: dict[str, Cell] = {LOGITS: (first, 0)}
    cells |= {node.name: (figure.positions.index(node.at), row) for row, node in enumerate(figure.nodes, 1)}
    turns, count = turns_of(figure, cells), max(len(figure.positions), 1)
    beside = {(arrow.source, turn.up) for arrow, turn in turns.items() if turn.beside}
    ends = {(cells[arrow.target][0], turn.end) for arrow, turn in turns.items()}
    rooms, lanes = dict[Cell, float](), dict[tuple[str, int], float]()
    for place in ((column, side) for column in range(count) for side in (-1, 1)):
        inside = [(name, place[1]) for name, (column, _) in cells.items() if column == place[0]]
        inside = [one for one in inside if one in beside]
        lanes |= {one: PORT + LANE * number for number, one in enumerate(inside)}
        rooms[place] = PORT + LANE * len(inside) if inside or place in ends else EDGE
    free = WIDTH - sum(rooms.values())
    half = min(max(free / (2 * count), NARROW), WIDE)
    width = max(WIDTH - free + 2 * half * count, WIDTH)
    x, columns = (free - 2 * half * count) / 2 if width == WIDTH else 0.0, list[float]()
    for column in range(count):
        columns.append(x + rooms[column, -1] + half)
        x = columns[-1] + half + rooms[column, 1]
    places = {LOGITS: NodeBox(columns[first], FIRST + PILL / 2, 30.0, PILL / 2)}
    for node in figure.nodes:
        column, row = cells[node.name]
        places[node.name] = NodeBox(columns[column], FIRST + PILL + row * (BOX + GAP) - BOX / 2, half, BOX / 2)
    ways = {arrow: _way(arrow, turn, places, lanes) for arrow, turn in turns.items()}
    lines = max((len(lines_of(position, 2 * half)) for position in figure.positions), default=1)
    foot = FIRST + PILL + len(figure.nodes) * (BOX + GAP)
    return DiagramLayout(places, tuple(columns), half, ways, width, foot + lines * LINE + 2 * EDGE)


def turns_of(figure: Diagram, cells: Mapping[str, Cell]) -> dict[Arrow, Turn]:
    """How each arrow goes: of each group one goes straight up to the next of its column."""
    taken, begun, found = {*cells.values()}, set[str](), dict[Arrow, Turn]()
    for arrow in figure.arrows:
        if {arrow.source, arrow.target} <= cells.keys():
            (column, row), (other, above) = cells[arrow.source], cells[arrow.target]
            free = above < row and taken.isdisjoint((column, one) for one in range(above + 1, row))
            side = 1 if other >= column else -1
            found[arrow] = Turn(side, -side, not free)
            if column == other:
                straight = free and arrow.source not in begun
                found[arrow] = Turn(0, 0, False) if straight else Turn(side, side, True)
                begun.add(arrow.source)
    return found


def _way(arrow: Arrow, turn: Turn, places: Mapping[str, NodeBox], lanes: Mapping[tuple[str, int], float]) -> Way:
    source, target = places[arrow.source], places[arrow.target]
    top = source.y - source.half_height
    if not turn.up:
        corners = (source.x, top), (source.x, target.y + target.half_height + TIP)
        return Way(corners, (source.x, top - ROUND - TIP))
    begin = up = source.x + turn.up * SLOT
    rise = list[Corner]()
    if turn.beside:
        up = source.x + turn.up * (source.half_width + lanes[arrow.source, turn.up])
        rise = [(begin, top - RISE), (up, top - RISE)]
    port, edge = target.y + PORTS.get(arrow.via or "", 0.0), target.x + turn.end * (target.half_width + TIP)
    return Way(((begin, top), *rise, (up, port), (edge, port)), (edge + turn.end * 2 * ROUND, port))


def joints(ways: Mapping[Arrow, Way]) -> Iterator[Corner]:
    """Where an arrow turns into one that goes on: all other lines that cross do not belong together."""
    pieces = [piece for way in ways.values() for piece in zip(way.corners, way.corners[1:], strict=False)]
    for x, y in dict.fromkeys(corner for way in ways.values() for corner in way.corners[1:-1]):
        for (x0, y0), (x1, y1) in pieces:
            along = x0 == x == x1 and min(y0, y1) < y < max(y0, y1)
            if along or (y0 == y == y1 and min(x0, x1) < x < max(x0, x1)):
                yield x, y
                break


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
    svg = drawing(plan.width, plan.height, figure.title)
    foot = FIRST + PILL + len(figure.nodes) * (BOX + GAP)
    for x, position in zip(plan.columns, figure.positions, strict=False):
        add(svg, "line", x1=x, x2=x, y1=FIRST, y2=foot, class_="lane")
        label(svg, position, x, foot + LINE + 2, 2 * plan.half)
    last = {way.letter: arrow for arrow, way in plan.ways.items() if arrow.via}  # arrows that end together have one
    for arrow, way in plan.ways.items():
        _arrow(svg, arrow, way, last.get(way.letter) == arrow)
    for x, y in joints(plan.ways):
        add(svg, "circle", cx=x, cy=y, r=3.0, class_="tip")
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
    room, lines = int((width - 8) / LETTER), lines_of(node.name, width - 12)
    name = lines if len(lines) < 3 else [f"{lines[0]}…", lines[-1]]
    for index, line in enumerate(name):
        y = place.y - 12 + (index - len(name) / 2 + 0.5) * LINE
        add(made, "text", shortened_text(line, room), x=place.x, y=y, class_="middle strong")
    add(made, "text", head_count(node), x=place.x, y=place.y + 10, class_="middle")
    heads = first_heads(node, int((width - 8) / (SMALL * LETTER)))
    add(made, "text", heads, x=place.x, y=place.y + 25, class_="middle small")


def _arrow(svg: Element, arrow: Arrow, way: Way, lettered: bool) -> None:
    into = f"{arrow.target}'s {arrow.via} input" if arrow.via else arrow.target
    made = mark(svg, f"{arrow.source} acts on {into}", classes=f"arrow {arrow.via or 'direct'}")
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in way.corners)
    add(made, "path", d=f"M{path}", marker_end="url(#tip)")
    if arrow.via and lettered:
        x, y = way.letter
        add(made, "circle", cx=x, cy=y, r=ROUND)
        add(made, "text", arrow.via[:1].upper(), x=x, y=y + 4, class_="middle strong")
