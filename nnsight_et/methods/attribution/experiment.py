"""Attribution jobs: the gradient's estimate of every head's effect beside its exact one, and how well they agree."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.core.statistics import mean_interval
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import Attribution
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.circuits import check_data_and_circuit
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.mask_training import gradient_of
from nnsight_et.measuring.missing_scores import check_scored
from nnsight_et.measuring.predictions import select_examples
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, suffixes
from nnsight_et.methods.attribution import audit, present
from nnsight_et.methods.attribution.summary import Agreement, AttributionSummary
from nnsight_et.methods.base import Experiment
from nnsight_et.planning.plan import Job
from nnsight_et.results.summary import Gradient

SPLIT = "discovery"


def measure(context: RunContext, job: Job[Attribution]) -> Generator[Progress, None, MethodOutput[AttributionSummary]]:
    """All heads at each of the positions, patched one by one and estimated."""
    spec, choice = job.spec, job.models[0]
    shape = context.models.shape(choice)
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    measurements = {at: _effects(context, job, at, examples) for at in spec.at}
    yield from measure_cells(context, list(measurements.values()))
    rows, scores = list[Agreement](), dict[str, Tensor]()
    for at, measurement in measurements.items():
        found = context.cells.values(measurement)
        check_scored(context, job, f"at: {at}", found, examples)
        gradient = gradient_of({"autograd": found.pop("autograd")})
        means = {name: values.double().mean(-1) for name, values in found.items()}  # [layer * head]
        rows.append(agreement(at, means["attributed"], means["exact"], gradient))
        means["low"], means["high"] = mean_interval(found["exact"])
        for name, values in means.items():
            scores[f"{at}.{name}"] = values.unflatten(0, (shape.n_layers, shape.n_heads))
    return MethodOutput(scores, AttributionSummary(rows=rows, model=choice.name), data_digest(examples))


def _effects(context: RunContext, job: Job[Attribution], at: str, examples: Sequence[Example]) -> Measurement:
    """Of all heads at one position: exact and attributed effects [layer * head, example]."""
    choice, shape = job.models[0], context.models.shape(job.models[0])
    chunks = context.chunk_sizes.of(choice, examples)
    heads = [Head(layer, index) for layer in range(shape.n_layers) for index in range(shape.n_heads)]

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pair = context.data.pair(choice, examples, batch)
        return Call(head_effects, (pair, at, settings.select(heads), settings.engine, chunks))

    step = suffixes(job, choice, at, examples, [at], chunks.examples)
    return Measurement(step, {"attribution": at}, measure, len(heads))


def agreement(at: str, attributed: Tensor, exact: Tensor, gradient: Gradient, top: int = 10) -> Agreement:
    """Pearson's and Spearman's correlation of two scores [head], and the share of the exact top heads found."""
    top = min(top, len(exact))
    best = [set(to_list(values.argsort(stable=True)[:top])) for values in (attributed, exact)]
    pearson = torch.corrcoef(torch.stack([attributed, exact]))[0, 1].item()
    spearman = torch.corrcoef(torch.stack([ranks(attributed), ranks(exact)]))[0, 1].item()
    found = len(best[0] & best[1]) / top
    return Agreement(at=at, pearson=pearson, spearman=spearman, top=top, top_found=found, gradient=gradient)


def ranks(values: Tensor) -> Tensor:
    """[head]: the rank of each of values [head] from 1; equal ones share the mean of their ranks."""
    below = (values[None] < values[:, None]).sum(-1)
    alike = (values[None] == values[:, None]).sum(-1)
    return below + (alike + 1) / 2.0


EXPERIMENT = Experiment(
    check=check_data_and_circuit,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=present.heads,
    paper=None,
    statements=audit.statements,
)
