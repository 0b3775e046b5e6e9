"""Before any experiment of a run: models in float16 answer one of their prompts, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnsight_et.manifest import Comparison
from nnsight_et.measuring.cells import filled
from nnsight_et.measuring.circuits import plain_model
from nnsight_et.measuring.own_pairs import splits
from nnsight_et.measuring.work import Work
from nnsight_et.planning.plan import Job

TRIED = "float16"
"""The dtype whose largest number, 65504, activations of real models pass."""


def try_first_prompts(work: Work, jobs: Sequence[Job]) -> None:
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
        examples = work.examples(job, choice, split, 1)
        for _ in filled(work, [replace(plain_model(work, job, choice, examples, "first prompt"), sampled=False)]):
            pass
