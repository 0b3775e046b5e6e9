"""Before a run on a Python task: it gives what every experiment asks for, and nothing measures what selected."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.manifest import Comparison, MadeTask
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.examples import task_of
from nnsight_et.measuring.own_pairs import splits
from nnsight_et.planning.plan import Job, ModelChoice

Asked = tuple[str, str, int]
"""A model, a split, and how many examples of it."""


def check_own_task(context: RunContext, jobs: Sequence[Job]) -> None:
    """Raise TaskError naming an experiment and an example that cannot be used, or is in a split it must not be in."""
    drawn = dict[Asked, list[Example]]()
    selecting, measuring = dict[tuple[str, tuple[int, ...]], str](), dict[tuple[str, tuple[int, ...]], str]()
    for job in jobs:
        if not isinstance(job.task, MadeTask) or isinstance(job.spec, Comparison):
            continue
        for (key, split), choice in product(splits(job), job.models):
            examples = _examples(context, job, choice, (key, split), drawn)
            if split != "ablation":
                used = measuring if split == "evaluation" else selecting
                for number, one in enumerate(examples, start=1):
                    place = f"experiments.{job.name}.{key}: example {number} of {split}"
                    used.setdefault((choice.name, one.base.tokens), place)
    for base, place in measuring.items():
        if base in selecting:
            found = f"has the base prompt of {selecting[base]}"
            raise TaskError(f"{place} {found}; accepted: evaluation apart from discovery and pruning")


def _examples(
    context: RunContext, job: Job, choice: ModelChoice, part: tuple[str, str], drawn: dict[Asked, list[Example]]
) -> list[Example]:
    """What the job takes of a split for one of its keys; TaskError if there is less, or each time something else."""
    (key, split), where = part, f"experiments.{job.name}.{part[0]}"
    count, there = getattr(job.spec, key), context.data.available(job, split)
    if count > there:
        accept = f"1 to {there}" if there else "a task that has some of this split"
        raise TaskError(f"{where}: {quantity(count, 'example')}; the task has {there} of {split}; accepted: {accept}")
    asked = (choice.name, split, count)
    if count and asked not in drawn:
        drawn[asked] = context.data.examples(job, choice, split, count)
        if task_of(job.task).examples(context.models.tokenizer(choice), count, job.seed, split) != drawn[asked]:
            found = f"other examples of {split} when asked again"
            raise TaskError(f"{where}: {found}; accepted: the same for the same count, seed and split")
    return drawn.get(asked, [])
