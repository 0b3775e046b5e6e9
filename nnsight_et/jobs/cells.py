"""Cells: one batch of examples of one step of a job, measured once and stored."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnsight_et.batch import Example, Prompt
from nnsight_et.jobs.how import How, Measure
from nnsight_et.jobs.self_check import sampled
from nnsight_et.jobs.work import Progress, Work
from nnsight_et.plan import Job, ModelChoice, digest
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


def cells(
    work: Work, step: Step, what: dict[str, Any], measure: Callable[[Batch], dict[str, Tensor]]
) -> Generator[Progress, None, dict[Batch, str]]:
    """Batch -> the key of the cell with what `measure` makes of it, which is now in the store (Work.cell reads it).

    `what` says what that is: with the data, the model and how it runs it is the name of the cell.
    """
    keys: dict[Batch, str] = {}
    reused = 0
    for batch in step.batches:
        key = work.key(step.job, step.choice, what | {"data": data_digest([step.examples[index] for index in batch])})
        if work.stored(key) is None:
            work.kept(key, measure(batch))
        else:
            reused += 1
        keys[batch] = key
        checks = len(work.self_check.found)
        yield Progress(step.job.name, step.name, len(keys), len(step.batches), reused, checks)
    return keys


def measured(
    work: Work, step: Step, what: dict[str, Any], measure: Measure
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Tensors by name [..., example] over all of the step's examples, in their order; `measure` gives [..., batch].

    A sample of them is held against the reference engine: ExperimentError if they differ.
    """
    keys = yield from cells(work, step, what, lambda batch: measure(batch, How(step.job.engine)))
    back = torch.tensor([index for batch in keys for index in batch]).argsort()
    found = [work.cell(key) for key in keys.values()]
    values = {name: torch.cat([cell[name] for cell in found], -1)[..., back] for name in found[0]}
    sampled(work, step, _kind(what), measure, values)
    return values


def _kind(what: dict[str, Any]) -> str:
    """What is done, whichever heads it is done to: a cell's parts, where a path ends, which edge is blocked."""
    return " ".join([*what, *map(str, (what.get("path") or what.get("knockout") or ())[:2])])


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
    return [_plain(entry.base), _plain(entry.source), entry.answer]
