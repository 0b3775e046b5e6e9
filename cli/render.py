"""Tables as data -> rich tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nnsight_et.report.table import Table

WIDE = 240  # columns


def output() -> Console:
    """Standard output; what is not a terminal gets lines as long as they need to be."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def show(console: Console, table: Table) -> None:
    """Print a table, its title above and its note below."""
    drawn = RichTable(title=Text(table.title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        number = column in table.numeric
        drawn.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
    if table.note:
        console.print(Text(table.note, style="dim"))
    console.print()
