"""Sizes of a plan's models and the layout of its prompts, from files on this machine; no weight is read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import NnsightEtError
from nnsight_et.diagnostics.costs import estimates, rows_of, rows_with_chunks
from nnsight_et.manifest import parse
from nnsight_et.manifest.template import InitOptions, render_manifest
from nnsight_et.measuring.examples import task_of
from nnsight_et.models.files import describe_files
from nnsight_et.models.load import shape_of, tokenizer_of
from nnsight_et.planning.cost.methods import Prompts, Rows
from nnsight_et.planning.plan import Job, ModelChoice, Plan, plan
from nnsight_et.runner.run import device_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT, MAX_OVERSAMPLING = "evaluation", 50  # prompts that are looked at
MINUTES = 15  # that a first study may take
SHARE = 0.3  # what passes get of the speed of large products of matrices


def read_rows(
    jobs: Plan, known: Mapping[str, Rows], memory: int | None
) -> tuple[Mapping[str, Rows], Mapping[str, str]]:
    """What is `known`, and the same of the plan's other models whose configuration and tokenizer are on this machine.

    Those are in folders, or in the hub's cache; nothing is downloaded. And of models that cannot be sized, why not.
    """
    rows, unknown = dict(known), dict[str, str]()
    for job, choice in choices(jobs):
        if choice.name in known:
            continue
        try:
            files = describe_files(choice.name, choice.spec, here=True)
            layouts = prompt_layouts(sample(job, tokenizer_of(files)))
            rows[choice.name] = rows_with_chunks(choice.shape or shape_of(files), choice.dtype, layouts, memory)
        except NnsightEtError as error:
            unknown[choice.name] = str(error)
    return rows, unknown


def choices(jobs: Plan) -> Iterator[tuple[Job, ModelChoice]]:
    """The plan's models, each once, with the first job that has it."""
    seen = set[str]()
    for job in jobs.jobs:
        for choice in job.models:
            if choice.name not in seen:
                seen.add(choice.name)
                yield job, choice


def sample(job: Job, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """A batch of the job's examples, or as many as a file has."""
    task = task_of(job.task)
    available = getattr(task, "available", None)
    count = min(MAX_OVERSAMPLING, available(job.seed, SPLIT)) if available else MAX_OVERSAMPLING
    return list(task.examples(tokenizer, count, job.seed, SPLIT))


def prompt_layouts(examples: Sequence[Example]) -> tuple[Prompts, ...]:
    """How the examples' base prompts are laid out, alike ones together."""
    alike = Counter((len(one.base.tokens), tuple(sorted(one.base.positions.items()))) for one in examples)
    return tuple(Prompts(count, tokens, dict(places)) for (tokens, places), count in sorted(alike.items()))


@dataclass(frozen=True)
class FittedStudy:
    """The text of a first manifest, and about how many minutes a run of it takes here; or why that is not known."""

    text: str
    minutes: float | None = None
    unknown: str = ""


def fit_study(wishes: InitOptions, folder: Path, speed: float | None = None) -> FittedStudy:
    """The manifest that is wished for, with fewer examples where a run with the usual ones takes more than MINUTES.

    folder: where its relative paths start. speed: floating-point operations a second; measured on this machine if None.
    """
    usual = render_manifest(wishes)
    flops, unknown = _cost(usual, folder)
    if unknown:
        return FittedStudy(usual, unknown=unknown)
    speed = speed or flops_per_second(device_of("auto"))
    minutes = flops / speed / 60
    if minutes <= MINUTES:
        return FittedStudy(usual, minutes)
    text = render_manifest(replace(wishes, share=MINUTES / minutes))
    return FittedStudy(text, _cost(text, folder)[0] / speed / 60)


def _cost(text: str, folder: Path) -> tuple[float, str]:
    """The floating-point operations of a manifest's run; or why they are not known."""
    manifest = parse(text, "the manifest", lines=False, folder=folder)
    jobs = plan(manifest)
    rows, unknown = read_rows(jobs, rows_of(jobs, manifest.memory_bytes), manifest.memory_bytes)
    return sum(one.flops for one in estimates(jobs, rows, {}).values()), next(iter(unknown.values()), "")


def flops_per_second(device: str, size: int = 1024, seconds: float = 0.3) -> float:
    """About how many floating-point operations a second models get here: SHARE of what a product of matrices gets."""
    matrix = torch.ones(size, size, device=device)
    done, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds or not done:
        (matrix @ matrix).sum().item()
        done += 1
    return SHARE * done * 2 * size**3 / took
