"""Diagrams of circuits: nothing that is drawn covers anything else, however many groups and arrows there are."""

from __future__ import annotations

import random
import re
from itertools import combinations, pairwise
from xml.etree.ElementTree import Element

import pytest

from nnsight_et.display.figures import Arrow, Diagram, FigureGroup, Node
from nnsight_et.report.html.diagram import LOGITS, ROUND, Way, circuit, joints, layout
from nnsight_et.report.html.drawing import draw_group
from nnsight_et.report.html.svg import LETTER, LINE

Box = tuple[float, float, float, float]
POSITIONS = ("io", "s1", "previous_query_label", "s2", "last")


def graph(rounds: int) -> Diagram:
    """A graph of so many rounds: groups of all positions; arrows up, down, into themselves, into one end several."""
    draw, nodes, arrows = random.Random(rounds), [Node("last_1", "last", 9, ("L29H10", "L28H13"), "")], []
    arrows.append(Arrow("last_1", LOGITS, None))
    for number in range(2, 2 * rounds):
        at = draw.choice(POSITIONS)
        name = f"{at}_{1 + sum(node.at == at for node in nodes)}"
        nodes.append(Node(name, at, 9, ("L29H10", "L28H13", "L25H1"), "", draw.choice(("head", "MLP"))))
        for target in draw.sample(nodes, min(3, number)):
            arrows += [
                Arrow(name, target.name, via) for via in draw.sample(("query", "key", "value"), draw.choice((1, 2)))
            ]
        if draw.random() < 0.3:
            arrows += [Arrow(nodes[0].name, name, "value"), Arrow(name, LOGITS, None)]
    return Diagram("graph", POSITIONS, tuple(nodes), tuple(dict.fromkeys(arrows)))


def texts_of(svg: Element) -> list[Box]:
    """The boxes of all texts, by the mean width of a letter."""
    found = []
    for one in svg.iter("text"):
        half = LETTER * len(one.text or "") / 2
        x, y = float(one.get("x", "nan")), float(one.get("y", "nan"))
        found.append((x - half, y - 0.75 * LINE, x + half, y + 0.2 * LINE))
    return found


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def pieces(way: Way) -> list[Box]:
    """The pieces of an arrow as boxes without a width."""
    ends = [(*one, *other) for one, other in pairwise(way.corners)]
    return [(min(x, u), min(y, v), max(x, u), max(y, v)) for x, y, u, v in ends]


def around(x: float, y: float, half: float, high: float) -> Box:
    return x - half, y - high, x + half, y + high


def related(one: Arrow, other: Arrow) -> bool:
    """Whether two arrows may be drawn on one another: they begin or end at the same."""
    return one.source == other.source or (one.target, one.via) == (other.target, other.via)


@pytest.mark.parametrize("rounds", [1, 2, 4, 6, 8])
def test_no_two_labels_overlap_and_all_are_inside(rounds: int):
    svg = circuit(figure := graph(rounds))
    width, height = map(float, svg.get("viewBox", "").split()[2:])
    texts = texts_of(svg)
    assert len(texts) >= 1 + 3 * len(figure.nodes) + len(POSITIONS)
    assert not [pair for pair in combinations(texts, 2) if overlap(*pair)]
    rounded = [around(float(c.get("cx", "")), float(c.get("cy", "")), ROUND, ROUND) for c in svg.iter("circle")]
    boxes = [tuple(float(r.get(key, "")) for key in ("x", "y", "width", "height")) for r in svg.iter("rect")]
    corners = [
        tuple(map(float, pair)) for p in svg.iter("path") for pair in re.findall(r"([\d.-]+) ([\d.-]+)", p.get("d", ""))
    ]
    for x0, y0, x1, y1 in [
        *texts,
        *rounded,
        *((x, y, x + w, y + h) for x, y, w, h in boxes),
        *((*c, *c) for c in corners),
    ]:
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width
        assert y1 <= height
    names = {text.text for text in svg.iter("text")}
    assert {"logits", "previous query", "label"} <= names


@pytest.mark.parametrize("rounds", [2, 4, 6, 8])
def test_arrows_meet_no_box_and_no_letter_but_their_own(rounds: int):
    found = layout(graph(rounds))
    boxes = {name: around(one.x, one.y, one.half_width, one.half_height) for name, one in found.places.items()}
    assert not [pair for pair in combinations(boxes.values(), 2) if overlap(*pair)]
    letters = {arrow: around(*way.letter, ROUND, ROUND) for arrow, way in found.ways.items() if arrow.via}
    for arrow, way in found.ways.items():
        for piece in pieces(way):
            assert [name for name, box in boxes.items() if overlap(piece, box)] == []
            assert all(related(arrow, other) for other, letter in letters.items() if overlap(piece, letter))
    for (one, first), (other, second) in combinations(letters.items(), 2):
        assert not overlap(first, second) or (one.target, one.via) == (other.target, other.via)
    assert [name for letter in letters.values() for name, box in boxes.items() if overlap(letter, box)] == []


@pytest.mark.parametrize("rounds", [4, 6, 8])
def test_only_arrows_that_belong_together_share_a_line_and_dots_are_where_they_part(rounds: int):
    ways = layout(graph(rounds)).ways
    for (one, first), (other, second) in combinations(ways.items(), 2):
        for a in pieces(first):
            for b in pieces(second):
                along = a[0] == a[2] == b[0] == b[2] and min(a[3], b[3]) > max(a[1], b[1])
                along = along or (a[1] == a[3] == b[1] == b[3] and min(a[2], b[2]) > max(a[0], b[0]))
                assert not along or related(one, other)
    dots = [*joints(ways)]
    assert dots
    for x, y in dots:
        here = [
            arrow for arrow, way in ways.items() if any(p[0] <= x <= p[2] and p[1] <= y <= p[3] for p in pieces(way))
        ]
        assert len(here) > 1
        assert all(any(related(one, other) for other in here if other != one) for one in here)


def test_the_four_stages_of_the_paper_fit_a_column_and_a_wide_graph_is_not_shrunk():
    at = {"A": "last", "B": "last", "C": "s2", "D": "s1"}
    nodes = tuple(Node(name, place, 1, ("L0H0",), "") for name, place in at.items())
    arrows = (Arrow("A", LOGITS, None), Arrow("B", "A", "query"), Arrow("C", "B", "value"), Arrow("D", "C", "value"))
    small = Diagram("circuit", ("s1", "s2", "last"), nodes, arrows)
    assert not draw_group(FigureGroup("p", "t", "c", (small,))).wide
    assert draw_group(FigureGroup("p", "t", "c", (graph(8),))).wide
    assert len(layout(small).ways) == 4
    assert not [*joints(layout(small).ways)]
