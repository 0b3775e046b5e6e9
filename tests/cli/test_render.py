"""Tables on a terminal: nothing is dropped or shortened, whatever its width."""

from __future__ import annotations

from io import StringIO

import pytest
from nnsight_et_cli.render import show
from rich.console import Console

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
