"""The first command to try: a circuit, its picture and its faithfulness, within a minute of set-up."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from .execute import RunTarget, execute
from .options import RUNS, Limit, Out
from .render import show_diagram, show_path

demo_command = typer.Typer()
NEXT = """Next:
  et run tiny            the whole study: every method, on four small models
  et init my-study.yaml  a manifest of your own, for your model and prompts
"""


@demo_command.command()
def demo(out: Out = RUNS, limit: Limit = None) -> None:
    """Find a circuit in a small model of this package, draw it, and measure how faithful it is: within a minute."""
    from nnsight_et.manifest import load
    from nnsight_et.manifest.load import SHIPPED

    typer.echo("Which attention heads find what is in Box F? Two experiments on llama-tiny.")
    manifest = load(SHIPPED["demo"])
    execute(manifest.with_limit(limit) if limit else manifest, RunTarget(out), show_part)
    typer.echo(NEXT)


def show_part(console: Console, name: str, folder: Path) -> None:
    """Draw a circuit, here and as files; or say how faithful it is."""
    from nnsight_et.display.figures import Diagram
    from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
    from nnsight_et.report.html.figure_files import figure_files
    from nnsight_et.report.results import plates
    from nnsight_et.results.disk import write_file
    from nnsight_et.results.headers import method_of
    from nnsight_et.results.store import read_result
    from nnsight_et.results.study import Study

    result = read_result(folder / name)
    if method_of(result.header) == "faithfulness":
        (row,) = FaithfulnessSummary.read(result.header).rows
        console.print(
            f"The whole model answers {row.full:.0%} of {row.examples} prompts right. With every head outside the "
            f"circuit replaced by its mean it answers {row.circuit:.0%}; random circuits of that size, "
            f"{row.random_mean or 0:.0%}.\n"
        )
        return
    for group in plates(result, Study("demo", (result,), ())):
        for panel in group.panels:
            if isinstance(panel, Diagram):
                show_diagram(console, panel)
        for file, content in figure_files(group, ("svg",)).items():
            write_file(folder / file, content)
            show_path(console, group.title, folder / file)
    console.print()
