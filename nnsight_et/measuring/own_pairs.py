"""Before a run on a file of pairs: every line fits every model, and every experiment has enough of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.named_metrics import METRICS, WRITTEN
from nnsight_et.manifest import DCM, Attribution, Comparison, Discovery, Minimality, PairsFile, PathPatching
from nnsight_et.manifest.written import Scored
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.examples import has_length_limit, needs_foils, require_prompts_fit, task_of
from nnsight_et.models.load import tokenizer_of
from nnsight_et.planning.plan import Job
from nnsight_et.tasks.own_pairs import PARTS, OwnPairs

THIRDS = len(set(PARTS.values()))


def check_pairs(context: RunContext, job: Job) -> None:
    """Raise TaskError naming the file's line that is wrong or does not fit, or the key that asks for too many pairs."""
    if not isinstance(job.task, PairsFile) or isinstance(job.spec, Comparison):
        return
    pairs = task_of(job.task)
    assert isinstance(pairs, OwnPairs)
    for choice in job.models:
        files = context.models.files(choice)
        line, pair = pairs.longest(tokenizer_of(files))
        require_prompts_fit([pair], files, f"{job.name}: {line}", context.models.on_server)
        for swaps in pairs.swaps.values() if job.spec.needs_desiderata else ():
            line, pair = swaps.longest(tokenizer_of(files))
            require_prompts_fit([pair], files, f"{job.name}: {line}", context.models.on_server)
    check_counts(job)


def check_counts(job: Job) -> None:
    """Raise TaskError naming the key that asks for more pairs than the file has, or a line without a needed foil."""
    if not isinstance(job.task, PairsFile) or isinstance(job.spec, Comparison):
        return
    pairs = task_of(job.task)
    assert isinstance(pairs, OwnPairs)
    if job.spec.needs_desiderata:
        _check_swaps(pairs, job)
        return
    if needs_foils(job):
        pairs.check_foils(_reason(job))
    for key, split in splits(job):
        count, there = count_until(job, key), pairs.available(job.seed, split)
        if count > there:
            own = getattr(job.spec, key)
            beside = f" beside the {count - own} of examples" if count > own else ""
            found = f"{quantity(own, 'pair')}{beside}"
            found += f", but {there} of the {len(pairs.pairs)} in {job.task.name} are for {split}"
            need = f"a file with about {THIRDS * count} different base prompts, since each split gets a third"
            most = there - (count - own)
            accept = f"1 to {most}, or {need}" if most > 0 else need
            raise TaskError(f"experiments.{job.name}.{key}: {found}; accepted: {accept}")


def _check_swaps(pairs: OwnPairs, job: Job) -> None:
    """Raise TaskError naming the key that asks for more pairs of a desideratum than there are."""
    draws = getattr(job.spec, "draws", 1)
    for key, split in swap_splits(job):
        count, there = getattr(job.spec, key), pairs.available_swaps(job.seed, split)
        if count * draws > there:
            wanted = quantity(count, "pair") + (f" in each of {draws} draws" if draws > 1 else "")
            accept = f"1 to {there // draws}" if there >= draws else "more different base prompts, or fewer draws"
            found = f"{wanted}, but each desideratum has {there} for {split}"
            raise TaskError(f"experiments.{job.name}.{key}: {found}; accepted: {accept}")


def swap_splits(job: Job) -> Iterator[tuple[str, str]]:
    """The keys of a job on desiderata that say how many pairs of each it takes, with the split they are from."""
    if isinstance(job.spec, DCM):
        yield from ((f"{use}_examples", f"mask_{use}") for use in ("training", "validation", "test"))
    else:
        yield "examples", "evaluation"


def check_every_prompt(context: RunContext, job: Job) -> None:
    """Raise TaskError if a prompt of the job is longer than a model has positions, where it has a number of them."""
    if isinstance(job.task, PairsFile):
        return
    for choice in job.models if not job.spec.needs_desiderata else ():
        if has_length_limit(context.models.files(choice), context.models.on_server):
            for key, split in splits(job):
                made = context.data.prompts if key == "ablation_examples" else context.data.examples
                made(job, choice, split, count_until(job, key))


def check_foils(job: Job, examples: Sequence[Example]) -> None:
    """Raise TaskError if the job's metric needs foils, and the task has none."""
    if needs_foils(job) and not all(example.foils for example in examples):
        accept = ", ".join(name for name in WRITTEN if not METRICS[name].needs_foils)
        raise TaskError(f"{_reason(job)}, but the task's examples have none; accepted: {accept}, or a task with foils")


def _reason(job: Job) -> str:
    assert isinstance(job.spec, Scored)
    return f"experiments.{job.name}.metric: {job.spec.metric} compares the answer with foils"


def splits(job: Job) -> Iterator[tuple[str, str]]:
    """The job's keys that say how many pairs it takes, each with the split they are from."""
    finds, prunes = isinstance(job.spec, (PathPatching, Attribution, Discovery)), isinstance(job.spec, Minimality)
    yield "examples", "discovery" if finds else "pruning" if prunes else "evaluation"
    if isinstance(job.spec, (PathPatching, Discovery)):
        yield "held_out_examples", "evaluation" if isinstance(job.spec, PathPatching) else "discovery"
    if hasattr(job.spec, "ablation_examples"):
        yield "ablation_examples", "ablation"


def count_until(job: Job, key: str) -> int:
    """How many pairs of its split the job takes up to the key: discovery's held-out pairs come after its others."""
    before = job.spec.examples if isinstance(job.spec, Discovery) and key == "held_out_examples" else 0
    return before + getattr(job.spec, key, 0)
