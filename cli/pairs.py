"""The command about files of pairs: what is understood of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.text import Text

from nnsight_et.display.table import Table

from .options import Settings, model_names
from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.diagnostics.pairs_check import Piece, ShownPair

pairs = typer.Typer(no_args_is_help=True)

ALIKE, UNLIKE, PLACE = "green", "yellow", "bold cyan"


@pairs.callback()
def about() -> None:
    """Look at files of pairs of prompts."""


@pairs.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file of pairs (.jsonl, .json, .csv, .tsv, .parquet), or a manifest."),
    ],
    model: Annotated[
        Optional[str],
        typer.Option(help="The model whose tokens are shown: a manifest's first.", autocompletion=model_names),
    ] = None,
    settings: Settings = None,
) -> None:
    """Show what is understood of a file of pairs: its columns, splits, and five pairs with positions, tokens, lengths.

    Every row is checked; a mistake is named with its first row, and how many rows have it. Without a manifest, columns
    are guessed from their names, and --set 'task.columns={base: clean, ...}' says them.
    """
    from nnsight_et.diagnostics.pairs_check import check_pairs_file

    found = check_pairs_file(file, model, settings or ())
    console = output()
    for one in found.pairs:
        for line in _pair_lines(one):
            console.print(line, soft_wrap=True)
        console.print()
    show(console, Table(str(file), ("what", "found"), found.facts))
    if found.guessed:
        console.print(Text("These columns are a guess. A manifest must name them:"))
    console.print(Text(found.task), soft_wrap=True)


def _pair_lines(pair: ShownPair) -> Sequence[Text]:
    """A pair: base and source with their lengths, in one colour where these are equal, and what is scored."""
    lines = [Text(pair.where, style="bold")]
    for index, (side, pieces) in enumerate((("base", pair.base), ("source", pair.source))):
        line = Text(f"  {side:<7}")
        if pair.lengths is not None:
            same = pair.lengths[0] == pair.lengths[1]
            line.append(f"{pair.lengths[index]:>4} ", style=ALIKE if same else UNLIKE)
        lines.append(line + _shown_pieces(pieces, pair.lengths is not None))
    lines += [Text(f"  {role}: {text}") for role, text in pair.answers]
    return lines


def _shown_pieces(pieces: Sequence[Piece], tokens: bool) -> Text:
    """The pieces of a prompt, tokens with a bar between them, and the names of positions behind theirs."""
    shown = Text()
    for index, piece in enumerate(pieces):
        if tokens and index:
            shown.append("|", style="dim")
        shown.append(piece.text.replace("\n", "\\n"), style=PLACE if piece.position else "")
        if piece.position:
            shown.append(f"{{{piece.position}}}", style="dim")
    return shown
