"""The measuring loop: every cell that the store lacks is measured once, stored, and a sample of them checked."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.checks import check_cell, checks_of, run_checks
from nnsight_et.measuring.context import Measured, Progress, RunContext
from nnsight_et.measuring.self_check import calls_of
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement


def measure_cells(context: RunContext, measurements: Sequence[Measurement]) -> Generator[Progress, None, None]:
    """Put all cells of these measurements of one model into the store and make their checks; on a server in one job.

    ExperimentError if a sample is not what the reference engine gives.
    """
    if not measurements:
        return
    at_once, first = context.models.on_server, measurements[0].step
    keys = {id(one): context.cells.keys(one) for one in measurements}
    pending = [(one, batch, key) for one in measurements for batch, key in keys[id(one)].items()]
    missing = [(one, batch, key) for one, batch, key in pending if context.cells.find(key) is None]
    checks = [check for one in measurements for check in checks_of(context, one, at_once)] if at_once else []
    asked = calls_of(checks, f"{first.job.id} {first.name}")
    new = {key for _, _, key in missing}
    for one, batch, key in pending:
        call = one.measure(batch, EvalSettings(one.step.job.engine))
        check_cell(context, one.step.job, one.step.name, key, call, key not in new)
    results = context.executor.results(first.job, first.choice, chain(_calls(missing), asked))
    for one in measurements:
        own, step, reused = {batch: key for entry, batch, key in missing if entry is one}, one.step, 0
        for done, batch in enumerate(step.batches, start=1):
            if batch in own:
                context.cells.keep(own[batch], next(results))
            else:
                reused += 1
            yield context.progress(step.job, step.name, done, len(step.batches), reused)
        context.measured.setdefault(step.job.name, []).append(Measured(one, keys[id(one)]))
        if not at_once:
            run_checks(context, step.job, step.choice, checks_of(context, one, at_once))
    for check in checks:
        check.verify([next(results) for _ in check.calls])


def _calls(cells: Sequence[tuple[Measurement, Batch, str]]) -> Iterator[Call]:
    """What measures these cells, each call named by its cell's key."""
    for one, batch, key in cells:
        yield replace(one.measure(batch, EvalSettings(one.step.job.engine)), name=key)
