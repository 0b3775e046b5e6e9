"""`python -m benchmarks.plan_accuracy`: what `et plan --calibrate` expects of a manifest, beside what a run then takes.

Time: a whole run into an empty folder, predicted by the median of calibrations made before it. Memory: the same
experiments once more with everything measured afresh, while every tensor's bytes are counted (on a CPU, and slower), or
the device's own peak. Targets: 25% for the time of all, 15% for the largest memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.allocated import Allocated
from benchmarks.setting import written
from nnsight_et.diagnostics.costs import estimates
from nnsight_et.diagnostics.sizing import calibrate_models
from nnsight_et.manifest import Manifest, load
from nnsight_et.planning.cost.pieces import Estimate
from nnsight_et.planning.plan import Plan, plan
from nnsight_et.runner.run import device_of, run

TIME, MEMORY = 0.25, 0.15  # the targets


def expected(manifest: Manifest, jobs: Plan, rounds: int) -> dict[str, tuple[Estimate, float]]:
    """Experiment -> its estimate, and its seconds by the median of several calibrations."""
    found = []
    for _ in range(rounds):
        rows, speeds = calibrate_models(manifest, jobs)
        found.append(estimates(jobs, rows, {}, speeds, manifest.self_check == "on"))
    return {name: (one, median(each[name].seconds or 0.0 for each in found)) for name, one in found[-1].items()}


def timed(manifest: Manifest, out: Path) -> dict[str, float]:
    """Run it all: experiment -> seconds, reading models included."""
    seconds, before = dict[str, float](), time.perf_counter()
    for step in run(plan(manifest), out):
        now = time.perf_counter()
        seconds[step.experiment] = seconds.get(step.experiment, 0.0) + now - before
        before = now
    return seconds


def peaks(manifest: Manifest, out: Path) -> dict[str, float]:
    """Run it all: experiment -> the most bytes its tensors took at once, weights included."""
    cuda, found = device_of(manifest.device).startswith("cuda"), dict[str, float]()
    with Allocated() as counter:
        for step in run(plan(manifest), out):
            most = torch.cuda.max_memory_allocated() if cuda else counter.peak
            found[step.experiment] = max(found.get(step.experiment, 0.0), most)
            counter.peak = counter.now
            if cuda:
                torch.cuda.reset_peak_memory_stats()
    return found


def compared(
    predicted: dict[str, tuple[Estimate, float]], seconds: dict[str, float], most: dict[str, float]
) -> list[dict[str, Any]]:
    """A row per experiment that costs anything, and one of all."""
    rows = [
        {
            "experiment": name,
            "tflop": estimate.flops / 1e12,
            "expected_seconds": took,
            "seconds": seconds.get(name),
            "expected_bytes": estimate.peak,
            "bytes": most.get(name),
        }
        for name, (estimate, took) in predicted.items()
        if estimate.flops
    ]
    every = {key: sum(row[key] or 0 for row in rows) for key in ("tflop", "expected_seconds", "seconds")}
    every |= {key: max((row[key] or 0 for row in rows), default=0) for key in ("expected_bytes", "bytes")}
    return [_off(row) for row in [*rows, {"experiment": "all"} | every]]


def _off(row: dict[str, Any]) -> dict[str, Any]:
    """The row, and how far what was expected is from what was taken, as a share of that."""
    for kind in ("seconds", "bytes"):
        row[f"{kind}_off"] = row[f"expected_{kind}"] / row[kind] - 1 if row[kind] else None
    return row


def main(given: Sequence[str] | None = None) -> None:
    """Predict, run, print, and write results/plan_accuracy.json; a Markdown table for docs/performance.md last."""
    options = _options(given)
    manifest = load(options.manifest, options.set)
    manifest = manifest.with_limit(options.limit) if options.limit else manifest
    jobs = plan(manifest)
    predicted = expected(manifest, jobs, options.rounds)
    with TemporaryDirectory() as place:
        seconds = timed(manifest, Path(place) / "timed")
        most = peaks(manifest, Path(place) / "counted") if options.memory else {}
    rows = compared(predicted, seconds, most)
    console = Console(width=130)
    console.print(_table(rows))
    setting = {"manifest": options.manifest.name, "limit": options.limit, "rounds": options.rounds}
    target = {"seconds": TIME, "bytes": MEMORY}
    console.print(f"Written to {written('plan_accuracy', setting | {'target': target, 'experiments': rows})}")
    console.print(_markdown(rows), markup=False, soft_wrap=True)


def _options(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("manifest", nargs="?", type=Path, default=Path("experiments.yaml"))
    parser.add_argument("--set", action="append", default=[], help="replace a value, as et run does")
    parser.add_argument("--limit", type=int, help="at most this many examples everywhere")
    parser.add_argument("--rounds", type=int, default=5, help="calibrations whose median predicts the time")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="time only")
    return parser.parse_args(given)


COLUMNS = ("experiment", "TFLOP", "seconds, expected", "seconds", "off", "MiB, expected", "MiB", "off")


def _cells(row: dict[str, Any]) -> list[str]:
    def mib(key: str) -> str:
        return "" if row[key] is None else f"{row[key] / 2**20:.0f}"

    def share(key: str) -> str:
        return "" if row[key] is None else f"{row[key]:+.0%}"

    taken = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
    numbers = [f"{row['tflop']:.2f}", f"{row['expected_seconds']:.1f}", taken, share("seconds_off")]
    return [row["experiment"], *numbers, mib("expected_bytes"), mib("bytes"), share("bytes_off")]


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="What was expected, and what was taken")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "experiment" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
