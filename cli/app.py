"""The commands of `et`: each reads its arguments, calls the package, and prints. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from nnsight_et import __version__
from nnsight_et.core.errors import quantity

from . import options
from .circuit import circuit
from .demo import demo_command
from .diff import diff_and_export
from .execute import RunTarget, execute
from .method_commands import method_commands
from .models import check_models, models
from .pairs import pairs
from .plan_view import show_plan
from .report import find_study, formats_of, show_missing, show_notices, write_figures, write_page
from .selfcheck import selfcheck_commands
from .setup import setup
from .shell import Shell

app = typer.Typer(
    name="et",
    cls=Shell,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find and evaluate circuits in language models, from one manifest.",
)

MANIFEST = typer.Argument(
    metavar="MANIFEST",
    help="A YAML file such as experiments.yaml, or a shipped manifest: demo, tiny, paper, real.",
    autocompletion=options.manifests,
)
ManifestPath = Annotated[Path, MANIFEST]


@app.command()
def run(
    manifest: ManifestPath,
    only: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME", help="Run only this experiment and what it needs. Repeatable."),
    ] = None,
    settings: options.Settings = None,
    fresh: options.Fresh = False,
    out: options.Out = options.RUNS,
    backend: options.Backend = None,
    device: options.Device = None,
    memory: options.Memory = None,
    self_check: options.SelfCheck = None,
    limit: options.Limit = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run the experiments of a manifest. Run it again to continue an interrupted run."""
    from nnsight_et.manifest import load

    read = load(manifest, options.settings_of(settings, backend, device, memory, self_check))
    where = RunTarget(out, tuple(only or ()), fresh, options.view_of(quiet, as_json), workers)
    execute(read.with_limit(limit) if limit else read, where)


@app.command()
def plan(
    manifest: ManifestPath,
    settings: options.Settings = None,
    out: options.Out = options.RUNS,
    limit: options.Limit = None,
    device: options.Device = None,
    memory: options.Memory = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Also estimate the time, from a few forward passes of the models on the device."
        ),
    ] = False,
) -> None:
    """Show the experiments in the order they run, what they cost, and which are done."""
    from nnsight_et.manifest import load
    from nnsight_et.planning.plan import plan as planned

    read = load(manifest, options.settings_of(settings, None, device, memory, None))
    check_models(read)
    jobs = planned(read.with_limit(limit) if limit else read)
    show_plan(read, jobs, out, calibrate)


@app.command()
def report(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, or the folder of a run.")],
    figures: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR", file_okay=False, help="Also save the figures there, one file each, ready for a paper."
        ),
    ] = None,
    formats: Annotated[str, typer.Option(help="Formats of the figures, separated by commas.")] = "pdf,png,svg",
    settings: options.Settings = None,
    out: options.Out = options.RUNS,
    limit: options.Limit = None,
) -> None:
    """Write report.html from the results that exist. Runs nothing."""
    wanted = formats_of(formats) if figures else ()
    study, folder = find_study(source, settings or (), out, limit)
    show_notices(study)
    typer.echo(f"Report: {write_page(study, folder)}")
    if figures:
        typer.echo(f"Figures: {figures} ({quantity(write_figures(study, figures, wanted), 'file')})")
    show_missing(study)


@app.command()
def validate(manifests: Annotated[list[Path], MANIFEST], settings: options.Settings = None) -> None:
    """Check manifests: their text, the files they name, their task if that is Python, and that no model is quantized.

    Reads no weights and uses no network.
    """
    from nnsight_et.manifest import PairsFile, load
    from nnsight_et.planning.plan import plan as planned

    for manifest in manifests:
        read = load(manifest, settings or ())
        check_models(read)
        jobs = planned(read)
        if any(isinstance(job.task, PairsFile) for job in jobs.jobs):
            from nnsight_et.diagnostics.sizing import check_files_of_pairs

            check_files_of_pairs(jobs)
        typer.echo(f"{manifest}: {quantity(len(read.experiments), 'experiment')}, no errors")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def et(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find and evaluate circuits in language models, from one manifest."""


app.add_typer(demo_command)
app.add_typer(method_commands)
app.add_typer(selfcheck_commands)
app.add_typer(diff_and_export)
app.add_typer(setup)
app.add_typer(models, name="models")
app.add_typer(circuit, name="circuit")
app.add_typer(pairs, name="pairs")
