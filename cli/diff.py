"""What differs between two runs, and a run's tables as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from .render import output, show, show_path

diff_and_export = typer.Typer()

FOLDER = "The folder of a run, as `et run` prints it, or of one experiment in it."


@diff_and_export.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=FOLDER)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder to compare with.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Ignore differences up to this size.")] = 1e-4,
    top: Annotated[
        int,
        typer.Option(
            min=1, help="How many heads, and how many values of one metric, to show, largest difference first."
        ),
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    page: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", dir_okay=False, help="Also write a page with the figures of both, side by side."),
    ] = None,
) -> None:
    """Show what differs between two runs: manifest, models, data, versions, then metric by metric and head by head.

    The exit code is 0 whether or not they differ.
    """
    from nnsight_et.api.runs import open_run
    from nnsight_et.core.errors import quantity
    from nnsight_et.report.difference import difference
    from nnsight_et.report.difference_tables import difference_data, difference_tables, version_note
    from nnsight_et.report.html.page import beside_html
    from nnsight_et.results.disk import write_file

    studies = [open_run(folder).study for folder in (a, b)]
    found = difference(*studies, tolerance=tolerance)
    tables = difference_tables(found, top)
    if page is not None:
        names = (str(a), str(b))
        write_file(page, beside_html(studies[0], studies[1], tables, names, version_note(found)).encode())
    if as_json:
        typer.echo(json.dumps(difference_data(found), indent=2, allow_nan=False))
        return
    for name, study in zip("AB", studies, strict=True):
        for missing in study.missing:
            typer.echo(f"{name}: {missing.experiment} is left out: {missing.why}", err=True)
    count = f"{quantity(len(found.compared), 'experiment')} compared"
    if found.same:
        typer.echo(f"No difference: {count}, equal to the last bit.")
    elif not tables:
        typer.echo(f"No difference larger than {tolerance:g}: {count}.")
    else:
        console = output()
        console.print(f"A: {a}\nB: {b}\n{count}\n", highlight=False, markup=False, soft_wrap=True)
        if note := version_note(found):
            console.print(f"{note}\n", style="yellow", highlight=False, markup=False, soft_wrap=True)
        for table in tables:
            show(console, table)
    if page is not None:
        show_path(output(), "Side by side", page)


@diff_and_export.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=FOLDER)],
    form: Annotated[
        Literal["csv", "parquet"], typer.Option("--format", help="Parquet needs pip install 'nnsight-et\\[export]'.")
    ] = "csv",
    to: Annotated[
        Optional[Path], typer.Option(metavar="DIR", file_okay=False, help="Where to write. RUN/tables by default.")
    ] = None,
    examples: Annotated[bool, typer.Option("--examples", help="Also write the value of every example.")] = False,
) -> None:
    """Export the numbers of a run as long tables, and its graphs as JSON and GraphML."""
    from nnsight_et.api.runs import open_run
    from nnsight_et.report.export import export as exported

    for path in exported(open_run(run).study.results, to or run / "tables", form, examples):
        typer.echo(path)
