"""Before any experiment of a run: models in float16 answer one of their prompts, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnsight_et.manifest import Comparison
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.own_pairs import splits
from nnsight_et.measuring.predictions import plain_model
from nnsight_et.planning.plan import Job

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
