"""From a manifest's task to where its examples come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from nnsight_et.batch import Example, Prompt
from nnsight_et.errors import TaskError
from nnsight_et.manifest import BoxesTask, GreaterThanTask, IOITask, MadeTask, PairsFile, TaskData
from nnsight_et.plan import Job
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.greater_than import GreaterThan
from nnsight_et.tasks.ioi import IOI
from nnsight_et.tasks.own_pairs import OwnPairs
from nnsight_et.tasks.own_task import OwnTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AnyTask = Boxes | OwnPairs | IOI | GreaterThan | OwnTask


def task_of(task: TaskData) -> AnyTask:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong."""
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
            return boxes_of(task)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    return OwnPairs.of(task.text, task.name, task.positions)


def boxes_of(task: TaskData) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)


def examples_of(job: Job, tokenizer: PreTrainedTokenizerBase, split: str, count: int) -> list[Example]:
    """Pairs of the job's task; TaskError if it cannot make them."""
    with _told_of(job):
        return task_of(job.task).examples(tokenizer, count, job.seed, split)


def prompts_of(job: Job, tokenizer: PreTrainedTokenizerBase, split: str, count: int) -> list[Prompt]:
    """What mean ablation averages over on the job's task; TaskError if it cannot make them."""
    with _told_of(job):
        return task_of(job.task).prompts(tokenizer, count, job.seed, split)


def most_of(job: Job, split: str) -> float:
    """How many pairs of the job's task a split can have: without end, unless a file or the task ends."""
    task = task_of(job.task)
    with _told_of(job):
        return task.available(job.seed, split) if isinstance(task, (OwnPairs, OwnTask)) else inf


@contextmanager
def _told_of(job: Job) -> Iterator[None]:
    """While open, a TaskError about examples that come neither from the boxes task nor from a file names the job."""
    try:
        yield
    except TaskError as error:
        if isinstance(job.task, (BoxesTask, PairsFile)):
            raise
        raise TaskError(f"experiments.{job.name}: {error}") from error
