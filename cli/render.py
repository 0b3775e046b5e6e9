"""Tables, circuits and paths, as they are on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nnsight_et.display.figures import Diagram
from nnsight_et.display.table import Table

WIDE = 240  # columns
GAP = 2  # columns of a screen between those of a table
LONGEST, WIDEST = 30, 48  # letters of a word, and of a cell, that is not cut
READABLE = 28  # columns that a longer text has at least, where it could stand below others instead


def output() -> Console:
    """Standard output; what is not a terminal gets lines as long as they need to be, unless COLUMNS is set."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=WIDE)


def show(console: Console, table: Table) -> None:
    """Print a table, its title above and its note below.

    Where it is wider than the screen, its texts are wrapped between words; if that is not enough, its columns are
    printed one band below the other, each with the columns that say what a row is.
    """
    console.print(Text(table.title, style="bold"))
    for band in _bands(table, console.width):
        drawn = RichTable(box=None, pad_edge=False, header_style="dim")
        for index, width in _widths(table, band, console.width).items():
            name, number = table.columns[index], table.columns[index] in table.numeric
            justify = "right" if number else "left"
            style = "cyan" if index < _keys(table) else ""
            drawn.add_column(name, justify=justify, width=width, overflow="fold", style=style)
        for row in table.rows:
            drawn.add_row(*(Text(row[index]) for index in band))
        console.print(drawn)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()


def show_diagram(console: Console, diagram: Diagram) -> None:
    """Print a circuit from the logits down: each group with its position and heads, and what it writes to above it."""
    arrows, above = {arrow.source: arrow for arrow in diagram.arrows}, "logits"
    console.print(Text(above, style="bold"))
    for node in diagram.nodes:
        arrow = arrows.get(node.name)
        via = arrow.via if arrow else None
        end = "" if arrow is None or arrow.target == above else f" of {arrow.target}" if via else arrow.target
        console.print(Text(f"  ▲ {via or ''}{end}".rstrip(), style="dim"))
        console.print(Text.assemble((node.name, "bold cyan"), f" at {node.at}: ", ", ".join(node.heads)))
        above = node.name
    console.print()


def show_path(console: Console, name: str, path: Path) -> None:
    """Print where something is; on a terminal it is a link."""
    line = Text(f"{name}: ").append(str(path), style=f"link {path.resolve().as_uri()}")
    console.print(line, soft_wrap=True)


def _bands(table: Table, width: int) -> list[list[int]]:
    """The columns that are printed side by side: all, or as many as fit beside those that say what a row is."""
    keys = list(range(_keys(table)))
    bands = [list(keys)]
    for index in range(len(keys), len(table.columns)):
        wanted = [*bands[-1], index]
        if bands[-1] != keys and sum(_readable(table, one) + GAP for one in wanted) - GAP > width:
            bands.append(list(keys))
        bands[-1].append(index)
    return bands


def _widths(table: Table, band: Sequence[int], width: int) -> dict[int, int]:
    """How wide each column is: as wide as it needs to be, or texts share what is left by those that need less.

    Where a single column is too wide beside those that say what a row is, numbers are wrapped like texts.
    """
    widths = {index: _least(table, index) for index in band}
    if sum(widths.values()) + GAP * (len(band) - 1) > width:
        widths = {index: _least(table, index, wrapped=True) for index in band}
    more = {index: max(map(len, _cells(table, index))) - widths[index] for index in band}
    left = max(width - sum(widths.values()) - GAP * (len(band) - 1), 0)
    for place, index in enumerate(sorted(band, key=more.__getitem__)):
        given = min(more[index], left // (len(band) - place))
        widths[index] += given
        left -= given
    return widths


def _keys(table: Table) -> int:
    """How many columns say what a row is: those up to the first text, and texts after it while rows are alike."""
    texts = [index for index, name in enumerate(table.columns) if name not in table.numeric]
    keys = min(texts, default=0) + 1
    while keys in texts and len({row[:keys] for row in table.rows}) < len(table.rows):
        keys += 1
    return keys


def _least(table: Table, index: int, wrapped: bool = False) -> int:
    """What a column needs: what says what a row is, and numbers, whole; texts their longest word, if not very long.

    wrapped: numbers are taken like texts.
    """
    name, *cells = _cells(table, index)
    if index < _keys(table):
        return min(max(map(len, (name, *cells))), WIDEST)
    words = [word for text in (name, *cells) for word in text.split(" ")]
    if table.columns[index] in table.numeric and not wrapped:
        words = [*name.split(" "), *cells]
    return min(max(map(len, words)), LONGEST)


def _readable(table: Table, index: int) -> int:
    """What a column needs for its texts not to be a tower of words."""
    longest = max(map(len, _cells(table, index)))
    return max(_least(table, index), min(longest, READABLE) if table.columns[index] not in table.numeric else 0)


def _cells(table: Table, index: int) -> list[str]:
    return [table.columns[index], *(row[index] for row in table.rows)]
