"""Tables as data -> rich tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nnsight_et.display.table import Table

WIDE = 240  # columns
GAP = 2  # columns of a screen between those of a table
LONGEST, WIDEST = 30, 48  # letters of a word, and of a cell, that is not cut


def output() -> Console:
    """Standard output; what is not a terminal gets lines as long as they need to be."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def show(console: Console, table: Table) -> None:
    """Print a table, its title above and its note below.

    Where it is wider than the screen, its texts are wrapped between words; if that is not enough, its columns are
    printed one band below the other, each with the columns that say what a row is.
    """
    console.print(Text(table.title, style="italic"))
    for band in _bands(table, console.width):
        drawn = RichTable(box=None, pad_edge=False, header_style="bold")
        for index, width in _widths(table, band, console.width).items():
            name, number = table.columns[index], table.columns[index] in table.numeric
            justify = "right" if number else "left"
            drawn.add_column(name, justify=justify, width=width, overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(row[index]) for index in band))
        console.print(drawn)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()


def _bands(table: Table, width: int) -> list[list[int]]:
    """The columns that are printed side by side: all, or as many as fit beside those that say what a row is."""
    keys = list(range(_keys(table)))
    bands = [list(keys)]
    for index in range(len(keys), len(table.columns)):
        wanted = [*bands[-1], index]
        if bands[-1] != keys and sum(_least(table, one) + GAP for one in wanted) - GAP > width:
            bands.append(list(keys))
        bands[-1].append(index)
    return bands


def _widths(table: Table, band: Sequence[int], width: int) -> dict[int, int]:
    """How wide each column is: as wide as it needs to be, or texts share what is left by those that need less."""
    widths = {index: _least(table, index) for index in band}
    more = {index: max(map(len, _cells(table, index))) - widths[index] for index in band}
    left = max(width - sum(widths.values()) - GAP * (len(band) - 1), 0)
    for place, index in enumerate(sorted(band, key=more.__getitem__)):
        given = min(more[index], left // (len(band) - place))
        widths[index] += given
        left -= given
    return widths


def _keys(table: Table) -> int:
    """How many columns say what a row is: those up to the first one that is no number."""
    texts = [index for index, name in enumerate(table.columns) if name not in table.numeric]
    return min(texts, default=0) + 1


def _least(table: Table, index: int) -> int:
    """What a column needs: what says what a row is, and numbers, whole; texts their longest word, if not very long."""
    name, *cells = _cells(table, index)
    if index < _keys(table):
        return min(max(map(len, (name, *cells))), WIDEST)
    words = [word for text in (name, *cells) for word in text.split(" ")]
    if table.columns[index] in table.numeric:
        words = [*name.split(" "), *cells]
    return min(max(map(len, words)), LONGEST)


def _cells(table: Table, index: int) -> list[str]:
    return [table.columns[index], *(row[index] for row in table.rows)]
