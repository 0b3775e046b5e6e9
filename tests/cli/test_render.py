"""Tables on a terminal: nothing is dropped or shortened, whatever its width."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from nnsight_et_cli.render import show, show_diagram, show_path
from rich.console import Console

from nnsight_et.display.figures import Arrow, Diagram, Node
from nnsight_et.display.table import Table

ROWS = (
    ("1", "position_transmitter", "0.90 [0.75, 1.00]", "L4H0 -0.254*, L3H2 -0.182, L3H7 -0.083", "0.091 (least)"),
    ("2", "b", "0.50 [0.30, 0.70]", "L4H1 -0.007", "–"),
)
TABLE = Table(
    "mine: scores", ("", "group", "full model", "head and score", "p"), ROWS, frozenset({"", "full model", "p"})
)


def printed(width: int, table: Table = TABLE) -> list[str]:
    console = Console(width=width, file=StringIO(), color_system=None)
    show(console, table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_a_table_that_fits_is_one_line_a_row():
    lines = printed(120)
    assert lines[1].split() == ["group", "full", "model", "head", "and", "score", "p"]
    assert lines[2].split("  ")[-1].strip() == "0.091 (least)"
    assert len([line for line in lines if "position_transmitter" in line]) == 1


@pytest.mark.parametrize("width", [80, 60, 45])
def test_a_narrow_screen_shows_all_of_it_and_names_every_row(width: int):
    lines = printed(width)
    assert all(len(line) <= width for line in lines)
    for cell in ("0.90 [0.75, 1.00]", "0.50 [0.30, 0.70]", "0.091 (least)"):
        (line,) = (line for line in lines if cell in line)
        assert ("position_transmitter" in line) == (cell in ROWS[0])
    words = " ".join(lines)
    assert all(words.count(word) == 1 for word in ("L4H0", "-0.254*,", "-0.083", "L4H1"))


def test_texts_are_wrapped_before_columns_are_put_below():
    table = Table("t", ("group", "heads"), (("value_fetcher", "L4H0 L4H1 L4H2 L4H3 L4H4"),))
    assert [line.split() for line in printed(30, table)[1:4]] == [
        ["group", "heads"], ["value_fetcher", "L4H0", "L4H1", "L4H2"], ["L4H3", "L4H4"],
    ]  # fmt: skip


def test_a_band_names_rows_by_as_many_texts_as_it_takes_to_tell_them_apart():
    rows = tuple(("value_fetcher", f"L5H{index}", "-0.501 [-0.641, -0.362]") for index in range(3))
    table = Table("t", ("group", "head", "score"), rows, frozenset({"score"}))
    wide = Table(
        "t", ("group", "head", "score", "again"), tuple((*row, row[2]) for row in rows), frozenset({"score", "again"})
    )
    assert len(printed(60, table)) == 6
    assert [line.split()[:2] for line in printed(60, wide)[1:9]] == 2 * [
        ["group", "head"], *(["value_fetcher", f"L5H{index}"] for index in range(3))
    ]  # fmt: skip


def test_numbers_are_wrapped_where_names_leave_no_room_for_them_whole():
    names = ("L0H1", "previous_query_label", "previous_query_label_1")
    rows = tuple((*names, via, "-0.043 [-0.063, -0.023]") for via in ("query", "key"))
    lines = printed(80, Table("t", ("node", "at", "into", "via", "score"), rows, frozenset({"score"})))
    assert [line.split() for line in lines[2:4]] == [[*rows[0][:4], "-0.043", "[-0.063,"], ["-0.023]"]]
    assert [line.split()[:4] for line in lines[4:5]] == [[*rows[1][:4]]]
    assert all(len(line) <= 80 for line in lines)


def test_a_long_text_stands_below_others_rather_than_in_a_tower():
    heads = "L5H0 -0.501, L4H1 -0.191, L5H2 -0.176, L5H3 -0.162"
    columns = ("group", "at", "heads", "beyond chance", "stability", "head and score")
    row = ("position_transmitter", "previous_query_label", "7", "0", "0.72", heads)
    lines = printed(80, Table("t", columns, (row,), frozenset(columns[2:5])))
    assert [line for line in lines if "L5H0 -0.501, L4H1 -0.191" in line and "position_transmitter" in line]


def test_a_circuit_is_drawn_from_the_logits_down():
    nodes = (
        Node("a", "last", 2, ("L5H0", "L4H1"), ""),
        Node("b", "last", 1, ("L3H0",), ""),
        Node("c", "label", 0, (), ""),
    )
    arrows = (Arrow("a", "logits", None), Arrow("b", "a", "query"), Arrow("c", "a", "value"))
    console = Console(width=80, file=StringIO(), color_system=None)
    show_diagram(console, Diagram("circuit", ("label", "last"), nodes, arrows))
    assert isinstance(console.file, StringIO)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "logits", "  ▲", "a at last: L5H0, L4H1", "  ▲ query", "b at last: L3H0", "  ▲ value of a", "c at label:", ""
    ]  # fmt: skip


def test_a_path_is_a_link_on_a_terminal_and_plain_elsewhere(tmp_path: Path):
    shown = []
    for terminal in (True, False):
        console = Console(width=40, file=StringIO(), force_terminal=terminal)
        show_path(console, "Report", tmp_path / "report.html")
        assert isinstance(console.file, StringIO)
        shown.append(console.file.getvalue())
    assert f"file://{tmp_path}/report.html" in shown[0]
    assert shown[1] == f"Report: {tmp_path}/report.html\n"
