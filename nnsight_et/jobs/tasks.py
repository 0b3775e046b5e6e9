"""From a manifest's task to its examples. What was drawn last is kept: models of one tokenizer see the same prompts."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from nnsight_et.batch import Example, Prompt
from nnsight_et.manifest import BoxesTask
from nnsight_et.manifest.own_pairs import PairsFile
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.desiderata import desideratum
from nnsight_et.tasks.own_pairs import OwnPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 64  # samples


class Sample(NamedTuple):
    """How many examples, from which split and seed."""

    split: str
    count: int
    seed: int


def task_of(task: BoxesTask | PairsFile) -> Boxes | OwnPairs:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong."""
    return _pairs_of(task) if isinstance(task, PairsFile) else boxes_of(task)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    return OwnPairs.of(task.text, task.name, task.positions)


def boxes_of(task: BoxesTask | PairsFile) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)


def examples_of(
    task: BoxesTask | PairsFile, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None = None
) -> tuple[Example, ...]:
    """Pairs for a tokenizer: the task's own, or, of boxes, those of the desideratum whose variable is `swapped`."""
    frozen: Any = task  # and so hashable, which its class does not tell a type checker
    return _examples(frozen, tokenizer, sample, swapped)


def prompts_of(task: BoxesTask | PairsFile, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    """Single prompts for a tokenizer: what mean ablation averages over."""
    frozen: Any = task
    return _prompts(frozen, tokenizer, sample)


@lru_cache(maxsize=KEPT)
def _examples(
    task: BoxesTask | PairsFile, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None
) -> tuple[Example, ...]:
    split, count, seed = sample
    if swapped is None:
        return tuple(task_of(task).examples(tokenizer, count, seed, split))
    return tuple(desideratum(boxes_of(task), swapped, tokenizer, count, seed, split))


@lru_cache(maxsize=KEPT)
def _prompts(task: BoxesTask | PairsFile, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    return tuple(task_of(task).prompts(tokenizer, sample.count, sample.seed, sample.split))
