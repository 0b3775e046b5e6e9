"""What a plan's experiments cost and which are done already: as a table, and for the time that a run has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nnsight_et.core.errors import ResultError

from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.core.circuit import Circuit
    from nnsight_et.manifest import Manifest
    from nnsight_et.planning.plan import Plan


def show_plan(manifest: Manifest, jobs: Plan, out: Path, calibrate: bool) -> None:
    """The table of a manifest's plan; to `calibrate`, models are read, and passes timed."""
    from nnsight_et.diagnostics.costs import estimates
    from nnsight_et.report.overview import plan_table

    folder, done = find_finished(jobs, out)
    speeds, unknown = None, {}
    if calibrate:
        from nnsight_et.diagnostics.sizing import calibrate_models

        rows, speeds = calibrate_models(manifest, jobs)
    else:
        rows, unknown = _rows(manifest, jobs)
    checked, probed = manifest.self_check == "on", manifest.probe == "on"
    expected = estimates(jobs, rows, _circuits(folder, done), speeds, checked, probed)
    shapes = {name: one.sizes.shape for name, one in rows.items()}
    show(output(), plan_table(jobs, done, expected, shapes, unknown))
    typer.echo(f"Results: {folder}")


def time_scale(manifest: Manifest, jobs: Plan, out: Path) -> Callable[[Mapping[str, float]], Mapping[str, float]]:
    """The seconds that measured experiments took -> about how many the others take, by what all of them cost."""
    from nnsight_et.diagnostics.costs import expected_seconds, work_of

    @cache
    def work() -> dict[str, tuple[str, float]]:
        return work_of(jobs, _rows(manifest, jobs)[0], _circuits(*find_finished(jobs, out)))

    return lambda took: expected_seconds(work(), took)


def _rows(manifest: Manifest, jobs: Plan) -> tuple[Mapping, Mapping[str, str]]:
    """Prompts and sizes by model, from files where a model or task has others than those known by name; and why not."""
    from nnsight_et.diagnostics.costs import rows_of

    rows = rows_of(jobs, manifest.memory_bytes)
    if all(choice.name in rows for job in jobs.jobs for choice in job.models):
        return rows, {}
    from nnsight_et.diagnostics.sizing import read_rows

    return read_rows(jobs, rows, manifest.memory_bytes)


def find_finished(jobs: Plan, out: Path) -> tuple[Path, set[str]]:
    """The folder of a plan's results under `out`, and the names of the jobs whose results are there."""
    from nnsight_et.results.headers import folder_of, read_header

    folder, done = folder_of(out, jobs), set()
    for job in jobs.jobs:
        try:
            if read_header(folder / job.name).job_id == job.id:
                done.add(job.name)
        except ResultError:
            continue  # absent or damaged: it will be computed
    return folder, done


def _circuits(folder: Path, done: set[str]) -> dict[str, Circuit]:
    """The circuits that finished experiments have found."""
    from nnsight_et.results.headers import read_header
    from nnsight_et.results.summary import circuit_in

    found = {name: circuit_in(read_header(folder / name)) for name in done}
    return {name: circuit for name, circuit in found.items() if circuit is not None}
