"""What to know of a run's models and task before hours of work.

Whether models need a BOS that prompts lack, or answer by chance; whether those in float16 overflow; whether a Python
task gives what every experiment asks for, and nothing measures what selected.

A model is looked at once for all experiments of a run: a pass over a few prompts, and over one plain text where there
is a BOS to compare. What was found is kept beside the cells; a run whose results are there looks at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from nnsight_et.core.batch import Example, padded_batch
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.lists import to_list
from nnsight_et.core.notices import Notice
from nnsight_et.engine.budget import DEFAULT_BYTES, chunks
from nnsight_et.interventions.answers import plain_answers
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import DCM, ActivationPatching, BoxesTask, Comparison, MadeTask
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.chance import PROBED, asked_of, chance_notices, choice_of, right_answers
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.examples import Sample, examples_of, naming_job_in_errors, task_of
from nnsight_et.measuring.own_pairs import count_until, splits, swap_splits
from nnsight_et.measuring.predictions import plain_model
from nnsight_et.measuring.steps import data_digest
from nnsight_et.measuring.tokens import end_notices
from nnsight_et.models.load import configuration, longest_prompt, tokenizer_of
from nnsight_et.models.tokenizing import TEXT, bos_comparison_run, notices_of_losses, text_losses
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.tasks.own_task import OwnTask


@dataclass(frozen=True)
class Look:
    """One look at a model: what is run, what plain data is kept of it, and what that is reason to tell."""

    key: str
    calls: list[Call]
    kept: Callable[[list[Any]], dict[str, Any]]
    notices: Callable[[dict[str, Any]], list[Notice]]


def look_first(context: RunContext, jobs: Sequence[Job]) -> None:
    """Tell of the jobs without a result what must be known of their models first.

    Models are looked at in reverse, so that the one that is measured first stays in memory. On a server the looks go
    with the first calls that a model is asked for, so they are no job of their own.
    """
    waiting = [job for job in jobs if job.name not in context.earlier.results]
    first = dict[tuple[str, str, str], tuple[Job, ModelChoice]]()
    for job in jobs:
        for choice in job.models:
            first.setdefault((choice.name, choice.dtype, job.attention), (job, choice))
    for key, (job, choice) in reversed(first.items()):
        theirs = [one for one in waiting if key in {(its.name, its.dtype, one.attention) for its in one.models}]
        if theirs:
            try:
                for notice in end_notices(choice.name, context.models.tokenizer(choice)):
                    for one in theirs:
                        context.tell(one, notice)
                _look(
                    context,
                    [*_bos(context, job, choice), *(_chance(context, job, choice) if context.probed else ())],
                    theirs,
                    choice,
                )
            except Exception as error:
                error.add_note(f"while running {theirs[0].name}")
                raise


def _look(context: RunContext, looks: Sequence[Look], theirs: Sequence[Job], choice: ModelChoice) -> None:
    """Tell these jobs what is found in the store, or else by looking."""
    found = {look.key: {} if context.fresh else context.store.note(look.key) for look in looks}
    missing = [look for look in looks if not found[look.key]]
    calls = [call for look in missing for call in look.calls]

    def take(results: list[Any]) -> None:
        each = iter(results)
        for look in missing:
            found[look.key] = look.kept([next(each) for _ in look.calls])
            context.store.write_note(look.key, found[look.key])
        for look in looks:
            for notice in look.notices(found[look.key]):
                for job in theirs:
                    context.tell(job, notice)

    if calls and context.models.on_server:
        context.executor.ahead[choice.name, choice.dtype, theirs[0].attention] = (calls, take)
    else:
        take(list(context.executor.results(theirs[0], choice, calls)))


def _bos(context: RunContext, job: Job, choice: ModelChoice) -> Iterator[Look]:
    """A plain text behind BOS and without it, if prompts begin without one that there is."""
    files = context.models.files(choice)
    tokenizer, config = tokenizer_of(files), configuration(files)
    run = bos_comparison_run(tokenizer, config)
    if run is not None:
        key = context.cells.key(job, choice, {"text": TEXT, "tokens": to_list(run.tokens)})
        yield Look(
            key,
            [Call(text_losses, (run,), key)],
            lambda found: {"losses": found[0].tolist()},
            lambda found: notices_of_losses(choice.name, tokenizer, config, found["losses"]),
        )


def _chance(context: RunContext, job: Job, choice: ModelChoice) -> Iterator[Look]:
    """A few of the prompts that the job measures on, never more at once than it has itself."""
    examples = _examples(context, job, choice)
    if not examples:
        return
    shape = context.models.shape(choice)
    named = {"named": "the objects named"} if isinstance(job.task, BoxesTask) else {}
    answers = choice_of(examples, shape.vocabulary, **named)
    length, itemsize = max(len(one.base.tokens) for one in examples), getattr(torch, choice.dtype).itemsize
    own = getattr(job.spec, next(splits(job))[0], PROBED)  # the job's own passes are no smaller, and go in
    memory, read = context.chunk_sizes.memory or DEFAULT_BYTES, max(one.read for one in examples)
    most = max(1, min(own, chunks(shape, itemsize, length, memory, read).examples))
    parts = [slice(start, start + most) for start in range(0, len(examples), most)]
    key = context.cells.key(job, choice, {"probe": to_list(answers.tokens), "data": data_digest(examples)})
    pad = context.models.pad(choice)

    def calls() -> Iterator[Call]:
        for part in parts:
            run = padded_batch([one.base for one in examples[part]], pad)
            yield Call(plain_answers, (run, asked_of(examples, answers, part)), f"{key} {part.start}")

    def count_right(found: list[Any]) -> dict[str, Any]:
        predicted, chosen = (torch.cat([one[name] for one in found]) for name in ("predicted", "chosen"))
        return right_answers(examples, answers, predicted, chosen)

    yield Look(key, list(calls()), count_right, lambda found: chance_notices(choice.name, answers, found))


def _examples(context: RunContext, job: Job, choice: ModelChoice) -> list[Example]:
    """Examples of the split that the job draws from, with foils if the task has them; none longer than the model takes.

    A task that makes its examples gives PROBED however few the job measures; a file what it has; a task in Python as
    many as the job asks of it.
    """
    files, (key, split) = context.models.files(choice), next(splits(job))
    wanted = min(PROBED, context.data.available(job, split))
    if isinstance(job.task, MadeTask):
        wanted = min(wanted, getattr(job.spec, key, 0))
    if wanted < 1:
        return []
    with naming_job_in_errors(job):
        drawn = examples_of(job.task, tokenizer_of(files), Sample(split, int(wanted), job.seed, foils=True))
    longest, rows = longest_prompt(files), context.models.shape(choice).vocabulary
    return [
        one
        for one in drawn
        if (longest is None or one.base.length + one.continuation <= longest) and one.largest < rows
    ]


TRIED = "float16"
"""The dtype whose largest number, 65504, activations of real models pass."""


def try_first_prompts(context: RunContext, jobs: Sequence[Job]) -> None:
    """Run every float16 model on the first prompt it is asked for; an error names where numbers overflow.

    What the prompt gives is stored: a run that is continued loads no model for it.
    """
    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        for choice in job.models if not isinstance(job.spec, Comparison) else ():
            if choice.dtype == TRIED:
                first.setdefault((choice.name, job.attention), job)
    for (name, _), job in reversed(first.items()):  # the model that is wanted first is in memory last
        choice = next(one for one in job.models if one.name == name)
        split = next(split for _, split in splits(job))
        examples = context.data.examples(job, choice, split, 1)
        for _ in measure_cells(
            context, [replace(plain_model(context, job, choice, examples, "first prompt"), sampled=False)]
        ):
            pass


Asked = tuple[str, str, int]
"""A model, a split, and how many examples of it."""


def check_own_task(context: RunContext, jobs: Sequence[Job]) -> None:
    """Raise TaskError naming an experiment and an example that cannot be used, or is in a split it must not be in."""
    drawn = dict[Asked, list[Example]]()
    selecting, measuring = dict[tuple[str, tuple[int, ...]], str](), dict[tuple[str, tuple[int, ...]], str]()
    for job in jobs:
        if not isinstance(job.task, MadeTask) or isinstance(job.spec, Comparison):
            continue
        for model, key, split, examples in _parts(context, job, drawn):
            if split != "ablation":
                used = measuring if split in ("evaluation", "mask_test") else selecting
                for number, one in enumerate(examples, start=1):
                    place = f"experiments.{job.name}.{key}: example {number} of {split}"
                    used.setdefault((model, one.base.tokens), place)
    for base, place in measuring.items():
        if base in selecting:
            found = f"has the base prompt of {selecting[base]}"
            raise TaskError(f"{place} {found}; accepted: different prompts to select with and to measure on")


Part = tuple[str, str, str, list[Example]]
"""A model, a key of its experiment, a split, and the examples that the key asks for."""


def _parts(context: RunContext, job: Job, drawn: dict[Asked, list[Example]]) -> Iterator[Part]:
    """What the job takes of its task; TaskError if it cannot be had."""
    if job.spec.needs_desiderata:
        yield from _swaps(context, job)
        return
    for (key, split), choice in product(splits(job), job.models):
        yield choice.name, key, split, _draw_examples(context, job, choice, (key, split), drawn)


def _swaps(context: RunContext, job: Job) -> Iterator[Part]:
    """Its pairs that swap variables; TaskError unless all have the same base prompts, the same when asked again."""
    spec, task, tokenizer = job.spec, task_of(job.task), context.models.tokenizer(job.models[0])
    assert isinstance(spec, (DCM, ActivationPatching))
    assert isinstance(task, OwnTask)
    assert isinstance(job.task, MadeTask)
    for key, split in swap_splits(job):
        count, first = getattr(spec, key), dict[str, list[Example]]()
        for name in spec.desiderata or job.task.desiderata:
            where = f"experiments.{job.name}.{key}: desideratum {name} of {split}"
            made = [context.data.swapped_pairs(job, job.models[0], name, split=split, count=count)]
            made.append(task.desideratum(name, tokenizer, count, 1000 * job.seed, split))
            if made[0] != made[1]:
                raise TaskError(
                    f"{where}: a second call gave other examples; accepted: the same ones for the same call"
                )
            other, examples = next(iter(first.items()), (name, made[0]))
            first.setdefault(name, made[0])
            for number, (one, same) in enumerate(zip(made[0], examples, strict=True), start=1):
                if one.base != same.base:
                    found = f"example {number} has another base prompt than in {other}"
                    raise TaskError(f"{where}: {found}; accepted: the same ones, in the same order, for all desiderata")
            yield job.models[0].name, key, split, made[0]


def _draw_examples(
    context: RunContext, job: Job, choice: ModelChoice, part: tuple[str, str], drawn: dict[Asked, list[Example]]
) -> list[Example]:
    """What the job takes of a split for one of its keys; TaskError if there is less, or each time something else."""
    (key, split), where = part, f"experiments.{job.name}.{part[0]}"
    count, there = count_until(job, key), context.data.available(job, split)
    if count > there:
        before = count - getattr(job.spec, key)
        accept = f"1 to {there - before}" if there > before else "a task with more examples of this split"
        found = f"{quantity(count, 'example')}{' with those of examples' if before else ''}"
        raise TaskError(f"{where}: {found}, but the task has {there} of {split}; accepted: {accept}")
    asked = (choice.name, split, count)
    if count and asked not in drawn:
        drawn[asked] = context.data.examples(job, choice, split, count)
        if task_of(job.task).examples(context.models.tokenizer(choice), count, job.seed, split) != drawn[asked]:
            found = f"a second call gave other examples of {split}"
            raise TaskError(f"{where}: {found}; accepted: the same ones for the same count, seed and split")
    return drawn.get(asked, [])
