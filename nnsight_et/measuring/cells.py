"""Cells: one batch of examples of one step of a job, measured once and stored."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.checks import checks_of
from nnsight_et.measuring.how import How, Measure
from nnsight_et.measuring.self_check import Check, calls_of, run_checks
from nnsight_et.measuring.work import Progress, Work
from nnsight_et.planning.plan import Job, ModelChoice, digest
from nnsight_et.tasks.boxes import VERSION

Batch = tuple[int, ...]
"""Indices of a step's examples."""


@dataclass(frozen=True)
class Step:
    """A step of a job on one model: its examples, cut into batches of their indices."""

    job: Job
    choice: ModelChoice
    name: str
    examples: Sequence[Example]
    batches: tuple[Batch, ...]

    @property
    def model(self) -> tuple[str, str, str]:
        """Name, dtype and attention of the model that is measured."""
        return (self.choice.name, self.choice.dtype, self.job.attention)


def whole_prompts(job: Job, choice: ModelChoice, name: str, examples: Sequence[Example], most: int) -> Step:
    """A step whose batches hold prompts of like length: for work that goes through whole prompts."""
    sizes = [(0, len(example.base.tokens)) for example in examples]
    return Step(job, choice, name, examples, tuple(batches(sizes, most)))


def suffixes(
    job: Job, choice: ModelChoice, name: str, examples: Sequence[Example], positions: Sequence[str], most: int
) -> Step:
    """A step whose batches hold prompts with as many tokens from the first of `positions` on: for suffix passes."""
    sizes = []
    for example in examples:
        length = len(example.base.tokens)
        sizes.append((length - min(example.base.positions[name] for name in positions), length))
    return Step(job, choice, name, examples, tuple(batches(sizes, most)))


@dataclass(frozen=True)
class Measurement:
    """What is measured of a step's examples.

    `what` says what it is: with the data, the model and how it runs it is the name of a cell.
    """

    step: Step
    what: dict[str, Any]
    measure: Measure
    variants: int = 1
    """Of how many interventions its tensors [variant, example] are."""
    checks: tuple[Check, ...] = ()
    """What is to be checked beside a sample of the values."""
    sampled: bool = True

    def keys(self, work: Work) -> dict[Batch, str]:
        """The names of its cells."""
        step = self.step
        data = {batch: data_digest([step.examples[index] for index in batch]) for batch in step.batches}
        return {batch: work.key(step.job, step.choice, self.what | {"data": one}) for batch, one in data.items()}

    def values(self, work: Work) -> dict[str, Tensor]:
        """The tensors [..., example] of its cells, all in the store, over all examples in their order."""
        keys = self.keys(work)
        back = torch.tensor([index for batch in keys for index in batch]).argsort()
        found = [work.cell(key) for key in keys.values()]
        return {name: torch.cat([cell[name] for cell in found], -1)[..., back] for name in found[0]}


def measured(work: Work, measurement: Measurement) -> Generator[Progress, None, dict[str, Tensor]]:
    """Its tensors by name [..., example]; ExperimentError if a sample is not what the reference engine gives."""
    yield from filled(work, [measurement])
    return measurement.values(work)


def filled(work: Work, measurements: Sequence[Measurement]) -> Generator[Progress, None, None]:
    """Put all cells of these measurements of one model into the store and make their checks; on a server in one job."""
    if not measurements:
        return
    at_once, first = work.server is not None, measurements[0].step
    pending = [(one, batch, key) for one in measurements for batch, key in one.keys(work).items()]
    missing = [(one, batch, key) for one, batch, key in pending if work.stored(key) is None]
    checks = [check for one in measurements for check in _checks(work, one, at_once)] if at_once else []
    asked = calls_of(checks, f"{first.job.id} {first.name}")
    together = work.results(first.job, first.choice, chain(_calls(missing), asked))
    for one in measurements:
        own = {batch: key for entry, batch, key in missing if entry is one}
        yield from _kept(work, one, own, together)
        if not at_once:
            run_checks(work, one.step.job, one.step.choice, _checks(work, one, at_once))
    for check in checks:
        check.settle([next(together) for _ in check.calls])


def _calls(cells: Sequence[tuple[Measurement, Batch, str]]) -> Iterator[Call]:
    """What measures these cells, each call named by its cell's key."""
    for one, batch, key in cells:
        yield replace(one.measure(batch, How(one.step.job.engine)), name=key)


def _kept(
    work: Work, measurement: Measurement, missing: Mapping[Batch, str], results: Iterator[Any]
) -> Generator[Progress, None, None]:
    """Store the next results as the missing cells of one measurement."""
    step, checks, reused = measurement.step, work.self_check.found, 0
    for done, batch in enumerate(step.batches, start=1):
        if batch in missing:
            work.kept(missing[batch], next(results))
        else:
            reused += 1
        yield Progress(step.job.name, step.name, done, len(step.batches), reused, len(checks))


def _checks(work: Work, measurement: Measurement, at_once: bool) -> list[Check]:
    own = list(measurement.checks)
    if not measurement.sampled:
        return own
    return own + checks_of(work, measurement, lambda: measurement.values(work), at_once)


def batches(sizes: Sequence[tuple[int, int]], most: int) -> Iterator[Batch]:
    """Indices of examples in batches of at most `most`, from each one's (group, length).

    Only examples of one group share a batch; within it they are sorted by length, equal ones in their order.
    """
    batch: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        if batch and (len(batch) == most or sizes[index][0] != sizes[batch[0]][0]):
            yield tuple(batch)
            batch = []
        batch.append(index)
    if batch:
        yield tuple(batch)


def data_digest(data: Sequence[Example] | Sequence[Prompt]) -> str:
    """Digest of encoded examples or prompts, in their order."""
    return digest([VERSION, [_plain(entry) for entry in data]])


def _plain(entry: Example | Prompt) -> list[Any]:
    if isinstance(entry, Prompt):
        return [entry.tokens, sorted(entry.positions.items())]
    more = [entry.also_right, entry.foils] if entry.also_right or entry.foils else []
    return [_plain(entry.base), _plain(entry.source), entry.answer, *more]
