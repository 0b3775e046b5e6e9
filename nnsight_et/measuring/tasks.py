"""From a manifest's task to its examples. What was drawn last is kept: models of one tokenizer see the same prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.core.named_metrics import METRICS
from nnsight_et.manifest import BoxesTask, GreaterThanTask, IOITask, MadeTask, PairsFile, TaskData
from nnsight_et.manifest.methods.shared import Scored
from nnsight_et.planning.plan import Job
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.desiderata import desideratum
from nnsight_et.tasks.greater_than import GreaterThan
from nnsight_et.tasks.ioi import IOI
from nnsight_et.tasks.own_pairs import OwnPairs
from nnsight_et.tasks.own_task import OwnTask

AnyTask = Boxes | OwnPairs | IOI | GreaterThan | OwnTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 64  # samples


class Sample(NamedTuple):
    """How many examples, from which split and seed; `foils`: those of the boxes task with foils."""

    split: str
    count: int
    seed: int
    foils: bool = False


def task_of(task: TaskData, foils: bool = False) -> AnyTask:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong.

    foils: whether those of the boxes task are to have foils; others have them or not.
    """
    match task:
        case PairsFile():
            return _pairs_of(task)
        case IOITask():
            return IOI(task.order, task.templates, task.names)
        case GreaterThanTask():
            return GreaterThan()
        case MadeTask():
            return OwnTask(task)
        case _:
            return replace(boxes_of(task), foils=foils)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    return OwnPairs.of(task.text, task.name, task.positions, task.tokens_as)


def boxes_of(task: TaskData) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)


def examples_of(
    task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None = None
) -> tuple[Example, ...]:
    """Pairs for a tokenizer: the task's own, or, of boxes, those of the desideratum whose variable is `swapped`."""
    frozen: Any = task  # and so hashable, which its class does not tell a type checker
    return _examples(frozen, tokenizer, sample, swapped)


def prompts_of(task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    """Single prompts for a tokenizer: what mean ablation averages over."""
    frozen: Any = task
    return _prompts(frozen, tokenizer, sample)


@lru_cache(maxsize=KEPT)
def _examples(
    task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None
) -> tuple[Example, ...]:
    split, count, seed = sample.split, sample.count, sample.seed
    if swapped is None:
        return tuple(task_of(task, sample.foils).examples(tokenizer, count, seed, split))
    return tuple(desideratum(boxes_of(task), swapped, tokenizer, count, seed, split))


@lru_cache(maxsize=KEPT)
def _prompts(task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    return tuple(task_of(task).prompts(tokenizer, sample.count, sample.seed, sample.split))


def needs_foils(job: Job) -> bool:
    """Whether the job's metric compares the answer with foils."""
    return isinstance(job.spec, Scored) and METRICS[job.spec.metric].needs_foils


def most_of(job: Job, split: str) -> float:
    """How many pairs of the job's task a split can have: without end, unless a file or the task ends."""
    task = task_of(job.task)
    with told_of(job):
        return task.available(job.seed, split) if isinstance(task, (OwnPairs, OwnTask)) else inf


@contextmanager
def told_of(job: Job) -> Iterator[None]:
    """While open, a TaskError about examples that come neither from the boxes task nor from a file names the job."""
    try:
        yield
    except TaskError as error:
        if isinstance(job.task, (BoxesTask, PairsFile)):
            raise
        raise TaskError(f"experiments.{job.name}: {error}") from error
