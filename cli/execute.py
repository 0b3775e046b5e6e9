"""Run a manifest and print what came of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from nnsight_et.core.errors import NnsightEtError, NothingFound, UnsupportedModel
from nnsight_et.models.catalog import KNOWN_MODELS

from .plan_view import find_finished, time_scale
from .progress import StatusLine, View, follow, is_live, write_object
from .render import output, show, show_path
from .report import write_page
from .run_events import Outcome, RunInfo
from .shell import interruptible

if TYPE_CHECKING:
    from nnsight_et.core.notices import Notice
    from nnsight_et.manifest import Manifest
    from nnsight_et.planning.plan import Plan
    from nnsight_et.runner.run import Progress as Step


SIMULATED = (
    "Simulated: every job went to a server on this machine, which ran it without this package, by NDIF's protocol. It "
    "cannot show the versions, sandbox, memory and queue of your server; et doctor --ndif asks it."
)


@dataclass(frozen=True)
class RunTarget:
    """The folder results go to, which experiments to run, whether to compute all of it again, what to show,
    and the workers that share in it."""

    out: Path
    only: Sequence[str] = ()
    fresh: bool = False
    view: View = "auto"
    workers: str | None = None


ShowResult = Callable[[Console, str, Path], None]
"""Prints what is to be seen of an experiment: on this console, of this name, in this folder of a run."""


def execute(
    manifest: Manifest, where: RunTarget, show_one: ShowResult | None = None, may_find_nothing: bool = False
) -> None:
    """Run the manifest's experiments, showing progress and the result of each, then where the results are.

    show_one: shows a result in place of its notices and tables. may_find_nothing: experiments that were left out as no
    circuit was found are no error.
    """
    from nnsight_et.planning.plan import plan

    jobs = plan(manifest)
    names = [job.name for job in jobs.selected_jobs(where.only)]
    with interruptible(where.out / jobs.name / jobs.digest):  # what folder_of says, before its import takes time
        folder, done = find_finished(jobs, where.out)
        left_out = list[NothingFound]()
        computed = _run(manifest, where, jobs, folder, show_one or show_result, left_out)
        from nnsight_et.methods.discovery.words import sentences
        from nnsight_et.results.study import study_of

        report = write_page(study_of(jobs, folder), folder)
        for error in left_out:
            _tell_skipped(error, where.view)
            names = [name for name in names if name not in error.skipped]
        if where.view == "json":
            _write_results(names, folder, computed)
        elif where.view == "quiet":
            print(folder)
        else:
            show_path(output(), "Results", folder)
            show_path(output(), "Report", report)
            for line in sentences(study_of(jobs, folder), names):
                output().print(Text(line))
            if jobs.backend == "simulate":
                print(SIMULATED)
            if not computed and done.issuperset(names):
                print("Nothing to do: every result was stored; no forward pass was run.")
        if left_out and not may_find_nothing:
            raise typer.Exit(NothingFound.exit_code)


def _run(
    manifest: Manifest, where: RunTarget, jobs: Plan, folder: Path, show_one: ShowResult, left_out: list[NothingFound]
) -> int:
    """Run the experiments, showing progress; how many cells were measured. What was `left_out` is added to the list."""
    from nnsight_et.report.results import headline
    from nnsight_et.results.headers import read_header
    from nnsight_et.runner.run import Remote, RunOptions, run

    _freeze_imports()

    def outcome(name: str) -> Outcome:
        header = read_header(folder / name)
        return Outcome(header.seconds, len(header.self_check.checks), headline(header))

    chosen, console = jobs.selected_jobs(where.only), Console(stderr=True)
    status = StatusLine(where.view, is_live(console, where.view))
    info = RunInfo(tuple(job.name for job in chosen), outcome, time_scale(manifest, jobs, where.out))
    try:
        options = RunOptions(Remote(status.hear), where.workers, status.reach, partial(tell, view=where.view))
        steps = run(jobs, where.out, where.only, where.fresh, options)
        # A live view and the tables above it are one terminal's: whoever draws the one prints the other.
        tables = console if status.live and output().is_terminal else output()

        def on_result(name: str) -> None:
            if where.view == "auto":
                show_one(tables, name, folder)

        steps = _until_skipped(naming(status.between(steps), where.view), left_out)
        return follow(steps, console, info, where.view, status.text, on_result)
    except NnsightEtError as error:
        models = (choice.name for job in chosen for choice in job.models)
        standing_in = [f"{name}-tiny for {name}" for name in dict.fromkeys(models) if f"{name}-tiny" in KNOWN_MODELS]
        if isinstance(error, UnsupportedModel) and standing_in:
            error.add_note(f"Embedded models that need no files and run now: {', '.join(standing_in)}")
        if where.view == "json":
            write_object({"event": "error", "message": str(error), "exit_code": error.exit_code})
        raise


@cache  # once in a process: what comes later can become garbage
def _freeze_imports() -> None:
    """Let no garbage collection look through what imports have made: there is one for every model that is loaded."""
    gc.collect()
    gc.freeze()


def _until_skipped(steps: Iterable[Step], left_out: list[NothingFound]) -> Iterator[Step]:
    """The steps of a run, at the end of which it says what was left out."""
    try:
        yield from steps
    except NothingFound as error:
        left_out.append(error)


def _tell_skipped(error: NothingFound, view: View) -> None:
    """Say which experiments were left out, and why: on standard error, or as JSON objects."""
    for name, why in error.skipped.items():
        if view == "json":
            write_object({"event": "skipped", "experiment": name, "why": why})
        else:
            typer.echo(f"{name}: skipped: {why}", err=True)


def tell(notice: Notice, view: View) -> None:
    """Show what a user must know first, as soon as it is known: on standard error, or as a JSON object.

    Where no more than the results' folder is to be printed, results and report alone have it.
    """
    if view == "json":
        write_object({"event": "notice", **vars(notice)})
    elif view == "auto":
        colour = False if os.environ.get("NO_COLOR") else None
        typer.echo(typer.style(f"Notice: {notice}", fg="yellow"), err=True, color=colour)


def naming(steps: Iterable[Step], view: View) -> Iterator[Step]:
    """The steps of a run; each file that it finds damaged is named once, as an error or a JSON object."""
    named = 0
    for step in steps:
        for path in step.damaged[named:]:
            if view == "json":
                write_object({"event": "damaged", "file": str(path)})
            else:
                typer.echo(f"{path}: damaged; computing it again", err=True)
        named = len(step.damaged)
        yield step


def show_result(console: Console, name: str, folder: Path) -> None:
    """Print an experiment's notices and tables."""
    from nnsight_et.report.reproduction import paper_tables
    from nnsight_et.report.results import tables
    from nnsight_et.results.headers import read_header
    from nnsight_et.results.study import notice_text

    header = read_header(folder / name)
    for notice in header.notices:
        console.print(Text(f"Notice: {notice_text(notice, [name])}", style="yellow"), soft_wrap=True)
    for table in (*tables(header), *paper_tables(header)):
        show(console, table)


def _write_results(names: Iterable[str], folder: Path, computed: int) -> None:
    """A JSON object per result, and one that ends the run."""
    from nnsight_et.results.headers import read_header

    for name in names:
        header = read_header(folder / name)
        made = {"experiment": name, "method": header.job.spec.method, "seconds": header.seconds}
        write_object(
            {"event": "result", **made, "folder": str(folder / name), "summary": header.summary}
            | {"notices": [vars(notice) for notice in header.notices]}
        )
    write_object({"event": "end", "folder": str(folder), "computed": computed})
