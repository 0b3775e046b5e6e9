"""Print a plan, and what its experiments are expected to cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .execute import finished
from .render import output, show

if TYPE_CHECKING:
    from nnsight_et.core.circuit import Circuit
    from nnsight_et.manifest import Manifest
    from nnsight_et.planning.plan import Plan


def show_plan(manifest: Manifest, jobs: Plan, out: Path, calibrate: bool) -> None:
    """The table of a manifest's plan; to `calibrate`, models are read, and passes timed."""
    from nnsight_et.planning.cost.plans import estimates, rows_of
    from nnsight_et.report.overview import plan_table

    folder, done = finished(jobs, out)
    rows, speeds, unknown = rows_of(jobs, manifest.memory_bytes), None, {}
    if not calibrate and any(choice.name not in rows for job in jobs.jobs for choice in job.models):
        from nnsight_et.diagnostics.sizing import read_rows

        sizing = read_rows(jobs, rows, manifest.memory_bytes)
        rows, unknown = sizing.rows, sizing.unknown
    if calibrate:
        from nnsight_et.diagnostics.calibration import calibrated

        measured = calibrated(manifest, jobs)
        rows, speeds = measured.rows, measured.speeds
    checked, probed = manifest.self_check == "on", manifest.probe == "on"
    expected = estimates(jobs, rows, _circuits(folder, done), speeds, checked, probed)
    shapes = {name: one.sizes.shape for name, one in rows.items()}
    show(output(), plan_table(jobs, done, expected, shapes, unknown))
    typer.echo(f"Results: {folder}")


def _circuits(folder: Path, done: set[str]) -> dict[str, Circuit]:
    """The circuits that finished experiments have found."""
    from nnsight_et.core.circuit import Circuit
    from nnsight_et.results.headers import read_header

    summaries = {name: read_header(folder / name).summary for name in done}
    return {
        name: Circuit.from_dict(summary["circuit"], f"experiment {name}")
        for name, summary in summaries.items()
        if "circuit" in summary
    }
