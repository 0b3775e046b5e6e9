"""Attribution jobs: the gradient's estimate of every head's effect beside its exact one, and how well they agree."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.circuit import Head
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.calls import Call
from nnsight_et.jobs.cells import Batch, Measurement, data_digest, measured, suffixes
from nnsight_et.jobs.correct import chosen_examples
from nnsight_et.jobs.dcm import gradient_of
from nnsight_et.jobs.how import How
from nnsight_et.jobs.work import Outcome, Progress, Work
from nnsight_et.manifest import Attribution
from nnsight_et.plan import Job
from nnsight_et.statistics import bootstrap_interval

SPLIT = "discovery"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made."""
    work.shape(job.models[0])
    work.examples(job, job.models[0], SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """All heads at each of the positions, patched one by one and estimated."""
    spec, choice = job.spec, job.models[0]
    assert isinstance(spec, Attribution)
    shape = work.shape(choice)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))
    heads = [Head(layer, index) for layer in range(shape.n_layers) for index in range(shape.n_heads)]
    rows, scores = [], {}
    for at in spec.at:

        def effects(batch: Batch, how: How, at: str = at) -> Call:
            pair = work.pair(choice, examples, batch)
            return Call(head_effects, (pair, at, how.of(heads), how.engine, chunks))

        step = suffixes(job, choice, at, examples, [at], chunks.examples)
        found = yield from measured(work, Measurement(step, {"attribution": at}, effects, len(heads)))
        gradient = gradient_of({"autograd": found.pop("autograd")})
        means = {name: values.double().mean(-1) for name, values in found.items()}  # [layer * head]
        rows.append({"at": at} | agreement(means["attributed"], means["exact"]) | {"gradient": gradient})
        means["low"], means["high"] = bootstrap_interval(found["exact"], job.seed)
        for name, values in means.items():
            scores[f"{at}.{name}"] = values.unflatten(0, (shape.n_layers, shape.n_heads))
    return Outcome(scores, {"rows": rows, "model": choice.name}, data_digest(examples))


def agreement(attributed: Tensor, exact: Tensor, top: int = 10) -> dict[str, Any]:
    """Pearson's and Spearman's correlation of two scores [head], and the share of the exact top heads found."""
    top = min(top, len(exact))
    best = [set(values.argsort(stable=True)[:top].tolist()) for values in (attributed, exact)]
    pearson = torch.corrcoef(torch.stack([attributed, exact]))[0, 1].item()
    spearman = torch.corrcoef(torch.stack([ranks(attributed), ranks(exact)]))[0, 1].item()
    return {"pearson": pearson, "spearman": spearman, "top": top, "top_found": len(best[0] & best[1]) / top}


def ranks(values: Tensor) -> Tensor:
    """[head]: the rank of each of values [head] from 1; equal ones share the mean of their ranks."""
    below = (values[None] < values[:, None]).sum(-1)
    alike = (values[None] == values[:, None]).sum(-1)
    return below + (alike + 1) / 2.0
