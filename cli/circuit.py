"""The commands about circuits: what is in a file, from other forms into one, and out of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from nnsight_et.circuits.circuit_files import read_circuit
from nnsight_et.core.errors import ManifestError, accepted_names, quantity
from nnsight_et.display.table import Table
from nnsight_et.results.disk import write_file

from .options import CircuitArgument
from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.core.circuit import Circuit

circuit = typer.Typer(no_args_is_help=True)

To = Annotated[Optional[Path], typer.Option("--to", metavar="FILE", help="A new .json file. Printed if not given.")]


@circuit.callback()
def about() -> None:
    """Show circuits, convert them from other formats, and export them from runs."""


@circuit.command("show")
def show_circuit(place: CircuitArgument) -> None:
    """Show the groups of a circuit, their positions and heads."""
    from nnsight_et.manifest.written import SHIPPED, is_shipped

    if is_shipped(place):
        from nnsight_et.circuits import published

        if place not in SHIPPED:
            raise ManifestError(f"no shipped circuit {place!a}; {accepted_names(place, SHIPPED)}")
        _show(published.circuit(place.partition("/")[2]), place, ())
        return
    found = read_circuit(Path(place), "circuit")
    _show(found.circuit, place, (f"read as {found.form}",))


@circuit.command("import")
def import_one(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A circuit as .json, or scores of all heads as .npy, .csv, .pt, .safetensors, or a result's folder.",
        ),
    ],
    group: Annotated[
        Optional[list[str]], typer.Option(metavar="NAME", help="Name of the group. One for each matrix of scores.")
    ] = None,
    at: Annotated[
        Optional[list[str]],
        typer.Option(metavar="POSITION", help="Position of the group. One for all, or one for each."),
    ] = None,
    keep: Annotated[
        Optional[list[int]],
        typer.Option(metavar="K", help="How many heads to keep. One for all, or one for each."),
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="Keep the largest scores instead of the most negative.")
    ] = False,
    to: To = None,
) -> None:
    """Convert a circuit of the paper's authors, or scores of heads, to a circuit file."""
    from nnsight_et.results.circuit_import import import_circuit

    _check_new(to)
    found = import_circuit(files, group or (), at or (), keep or (), largest)
    _write(found.circuit, to, found.notes)


@circuit.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as `et run` prints it.")],
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="The name of the experiment in the manifest.")
    ],
    to: To = None,
) -> None:
    """Save the circuit that an experiment found or used."""
    from nnsight_et.api.runs import open_run

    _check_new(to)
    opened = open_run(run)
    if experiment not in opened.experiments:
        raise ManifestError(f"{run}: no result named {experiment!a}; {accepted_names(experiment, opened)}")
    _write(opened[experiment].circuit, to, ())


def _check_new(to: Path | None) -> None:
    """Raise ManifestError if something is at `to`, or no folder for it."""
    if to is not None and (to.exists() or not to.parent.is_dir() or to.suffix != ".json"):
        found = "it exists already" if to.exists() else "not a .json file in an existing folder"
        raise ManifestError(f"--to {to}: {found}; accepted: the name of a new file, such as circuit.json")


def _write(found: Circuit, to: Path | None, notes: Sequence[str]) -> None:
    """Write the circuit and show it; without a file print its JSON, and what there is to know beside it."""
    if to is None:
        typer.echo("".join(f"{note}\n" for note in notes), err=True, nl=False)
        typer.echo(found.to_json(), nl=False)
        return
    write_file(to, found.to_json().encode())
    _show(found, str(to), notes)


def _show(found: Circuit, title: str, notes: Sequence[str]) -> None:
    rows = tuple(
        (group.name, group.at, str(len(group.heads)), " ".join(map(str, group.heads))) for group in found.groups
    )
    note = "\n".join((*notes, f"{quantity(found.size, 'head')}, the most important of a group first"))
    show(output(), Table(title, ("group", "at", "heads", "which"), rows, frozenset({"heads"}), note))
