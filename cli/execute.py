"""Run a manifest and print what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nnsight_et.errors import ResultError, UnsupportedModel
from nnsight_et.models.named import NAMED

from .progress import follow
from .render import output, show
from .shell import interruptible

if TYPE_CHECKING:
    from nnsight_et.manifest import Manifest
    from nnsight_et.plan import Plan


@dataclass(frozen=True)
class Where:
    """The folder results go to, which experiments to run, and whether to compute all of it again."""

    out: Path
    only: Sequence[str] = ()
    fresh: bool = False


def execute(manifest: Manifest, where: Where) -> None:
    """Run the manifest's experiments, showing progress, then their tables and where the results are."""
    from nnsight_et.plan import plan
    from nnsight_et.report.paper import paper_tables
    from nnsight_et.report.results import tables
    from nnsight_et.run import run
    from nnsight_et.store import read_header

    jobs = plan(manifest)
    chosen = jobs.chosen(where.only)
    folder, done = finished(jobs, where.out)
    try:
        with interruptible(folder):
            steps = run(manifest, where.out, only=where.only, fresh=where.fresh)
            computed = follow(steps, Console(stderr=True))
    except UnsupportedModel as error:
        if standing_in := _stand_ins(choice.name for job in chosen for choice in job.models):
            error.add_note(f"Embedded models that need no files and run now: {standing_in}")
        raise
    console = output()
    for job in chosen:
        header = read_header(folder / job.name)
        for table in (*tables(header), *paper_tables(header)):
            show(console, table)
    console.print(f"Results: {folder}", highlight=False, markup=False, soft_wrap=True)
    if not computed and done.issuperset(job.name for job in chosen):
        console.print("Nothing to do: every result was there; no forward pass was run.", highlight=False)


def _stand_ins(models: Iterable[str]) -> str:
    """The embedded models that stand for those of `models` that are too large to embed; empty if there are none."""
    return ", ".join(f"{name}-tiny for {name}" for name in dict.fromkeys(models) if f"{name}-tiny" in NAMED)


def finished(jobs: Plan, out: Path) -> tuple[Path, set[str]]:
    """The folder of a plan's results under `out`, and the names of the jobs whose results are there."""
    from nnsight_et.store import Store, read_header

    folder, done = Store(out).folder(jobs), set()
    for job in jobs.jobs:
        try:
            if read_header(folder / job.name).job_id == job.id:
                done.add(job.name)
        except ResultError:
            continue  # absent or damaged: it will be computed
    return folder, done
