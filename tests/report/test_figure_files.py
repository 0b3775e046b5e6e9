"""Figures for papers: what is in the SVG, and that PDF and PNG are made from it in the size of a paper."""

from __future__ import annotations

import re
import struct
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from nnsight_et.display.figures import (
    Arrow,
    Bars,
    Cell,
    Curves,
    DataPoint,
    Diagram,
    Figure,
    FigureGroup,
    HeatMap,
    ImpactPlot,
    Line,
    Node,
    Point,
    Scatter,
    Series,
)
from nnsight_et.report.html.figure_files import figure_files
from nnsight_et.report.html.palette import LIGHT
from tests.helpers.commands import et

HOSTILE = "<a & 'b'>"


def mark(value: float) -> DataPoint:
    return DataPoint(value, (value - 0.1, value + 0.1), f"mark {value}", nothing=0.1)


SERIES = (Series("α", (mark(0.5), mark(0.25))), Series(HOSTILE, (mark(0.75), None)))
CELLS = ((Cell(-1.0, "a", framed=True), Cell(0.5, "b", dotted=True)), (Cell(None, "c"), Cell(0.0, "d", reached=False)))
PANELS: dict[str, Figure] = {
    "map": HeatMap("a → logits", ("0", "1"), ("0", "1"), CELLS, 1.0),
    "shares": HeatMap("looks", ("L0H0", "L0H1"), ("here", "there"), CELLS, 1.0, False, ("head", "attends to")),
    "diagram": Diagram(
        "circuit",
        ("first", "last"),
        (Node("fetcher", "last", 2, ("L1H0", "L1H1"), "f"), Node("reader", "first", 1, ("L0H0",), "r")),
        (Arrow("fetcher", "logits", None), Arrow("reader", "fetcher", "value")),
    ),
    "bars": Bars("accuracy", ("one", "two"), SERIES, "accuracy", (Line("chance", 0.2, "chance"),)),
    "curves": Curves("blind", ("0", "none"), "first blocked layer", SERIES, "accuracy"),
    "scatter": Scatter("both", ("x of it", "y of it"), (("heads", (Point(mark(-0.5), mark(0.5), "p"),)),), False),
    "impact": ImpactPlot(
        "impact", ("one", "two"), ("L0H0", "L1H1"), (0.5, 0.25), ((True, True), (False, True)), ("a", "b")
    ),
}
TEXTS = {
    "map": {"layer", "head", "0", "1", "−1", "+1"},
    "shares": {"head", "attends to", "L0H0", "L0H1", "here", "there", "0", "1"},
    "diagram": {"logits", "fetcher", "2 heads", "L1H0 L1H1", "reader", "1 head", "L0H0", "V", "first", "last"},
    "bars": {"accuracy", "one", "two", "α", HOSTILE, "chance", "0", "0.2", "1"},
    "curves": {"accuracy", "first blocked layer", "0", "none", "α", HOSTILE},
    "scatter": {"x of it", "y of it", "−0.5", "0.5"},
    "impact": {"|patching score|", "L0H0", "L1H1", "in one", "in two", "0.4"},
}


def plate(*names: str) -> FigureGroup:
    return FigureGroup("p", f"title {HOSTILE}", "caption", tuple(PANELS[name] for name in names))


def drawn(*names: str) -> Element:
    (content,) = figure_files(plate(*names), ("svg",)).values()
    return fromstring(content)


def every(svg: Element, tag: str) -> list[Element]:
    return list(svg.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def texts(svg: Element) -> list[str]:
    return [one.text or "" for one in every(svg, "text")]


def of_class(svg: Element, name: str) -> int:
    return sum(name in one.get("class", "").split() for one in svg.iter())


@pytest.mark.parametrize("kind", PANELS)
def test_a_figure_says_all_that_its_panel_has_and_stands_alone(kind: str):
    svg = drawn(kind)
    assert set(texts(svg)) >= TEXTS[kind]
    assert [one.text for one in (*every(svg, "title")[:1], *every(svg, "desc"))] == [f"title {HOSTILE}", "caption"]
    whole = figure_files(plate(kind), ("svg",))["p.svg"].decode()
    assert "var(" not in whole
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)", whole)
    assert LIGHT.named["ink"] in whole
    named = {one.get("id") for one in svg.iter() if one.get("id")}
    assert set(re.findall(r"url\(#(\w+)\)", whole)) <= named
    assert figure_files(plate(kind), ("svg",))["p.svg"].decode() == whole


def test_marks_lines_and_intervals_are_in_the_figures():
    bars = drawn("bars")
    assert of_class(bars, "error") == of_class(bars, "nothing") == 3
    assert of_class(bars, "rule") == 2  # the line, and its entry in the legend
    found = drawn("map")
    assert [of_class(found, name) for name in ("frame", "beyond", "hatched", "unmeasured")] == [1, 1, 1, 1]
    assert of_class(found, "d0") == 1 + 1  # the strongest cell, and the bar's end
    curves = drawn("curves")
    assert of_class(curves, "curve") == 2 + 2
    assert of_class(drawn("scatter"), "error") == 2
    assert of_class(drawn("impact"), "empty") == 1


def test_panels_stand_two_in_a_row_with_their_titles_and_one_legend():
    svg = drawn("bars", "curves", "bars")
    places = [
        tuple(map(float, group.get("transform", "")[10:-1].split()))
        for group in svg.findall("{http://www.w3.org/2000/svg}g")
    ]
    panels, legend = places[:3], places[3:]
    assert [x for x, _ in panels] == [0.0, 376.0, 0.0]
    assert panels[0][1] == panels[1][1] < panels[2][1]
    assert len(legend) == 3
    assert min(y for _, y in legend) > panels[2][1] + 150
    assert {"accuracy", "blind"} <= set(texts(svg))
    assert texts(svg).count("chance") == 1


def test_every_head_of_a_long_comparison_is_named():
    count = 80
    heads = tuple(f"L{index}H0" for index in range(count))
    long = ImpactPlot("impact", ("one", "two"), heads, (0.5,) * count, ((True, False),) * count, ("",) * count)
    (content,) = figure_files(FigureGroup("p", "t", "c", (long,)), ("svg",)).values()
    assert set(heads) <= set(texts(fromstring(content)))


@pytest.mark.parametrize(("kinds", "inches"), [(("bars",), 3.3), (("map", "shares"), 736 / 360 * 3.3)])
def test_pdf_and_png_have_the_size_of_a_papers_columns(kinds: tuple[str, ...], inches: float):
    pytest.importorskip("vl_convert")
    files = figure_files(plate(*kinds))
    assert list(files) == ["p.pdf", "p.png", "p.svg"]
    svg = fromstring(files["p.svg"])
    wide, high = (float(svg.get(side, "").removesuffix("pt")) for side in ("width", "height"))
    assert wide == pytest.approx(inches * 72, abs=0.01)
    assert files["p.pdf"].startswith(b"%PDF")
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", files["p.pdf"])
    assert box is not None
    assert [float(side) for side in box.groups()] == pytest.approx([wide, high], abs=0.05)
    assert b"LiberationSans" in files["p.pdf"]  # letters of an embedded font, not outlines
    assert files["p.png"].startswith(b"\x89PNG")
    assert struct.unpack(">II", files["p.png"][16:24]) == pytest.approx((wide / 72 * 300, high / 72 * 300), abs=1.5)
    assert figure_files(plate(*kinds), ("png",))["p.png"] == files["p.png"]


def test_the_command_writes_them_and_svg_without_the_extra(written: Path, monkeypatch: pytest.MonkeyPatch):
    assert et("run", "study.yaml", "--only", "found").exit_code == 0
    if find_spec("vl_convert"):
        shown = et("report", "study.yaml", "--figures", "all")
        assert "Figures: all (6 files)" in shown.stdout
        assert {path.name for path in Path("all").iterdir()} == {
            f"found-{what}.{kind}" for what in ("circuit", "scores") for kind in ("pdf", "png", "svg")
        }
    monkeypatch.setattr("nnsight_et_cli.report.find_spec", lambda name: None)
    refused = et("report", "study.yaml", "--figures", "some", "--formats", "svg,pdf")
    assert refused.exit_code == 2
    assert "vl-convert-python is not installed; accepted: --formats svg, or pip install" in refused.stderr
    assert not Path("some").exists()
    assert et("report", "study.yaml", "--figures", "some", "--formats", "svg").exit_code == 0
    assert "3 heads" in texts(fromstring(Path("some/found-circuit.svg").read_text()))
