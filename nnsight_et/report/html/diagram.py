"""A circuit as in Figure 1, as SVG: groups at their positions, arrows for queries, keys and values."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from nnsight_et.display.figures import Arrow, Diagram, Node
from nnsight_et.report.diagram_layout import (
    BOX,
    FIRST,
    FOOT,
    LOGITS,
    WIDTH,
    NodeBox,
    first_heads,
    head_count,
    layout,
    route,
)
from nnsight_et.report.html.svg import LETTER, LINE, add, drawing, label, lines_of, mark, shortened_text

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
