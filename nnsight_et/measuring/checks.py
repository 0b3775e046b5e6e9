"""The checks inside a run: what is drawn, what is asked of the model, what it is held against."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Prompt, PromptBatch, padded_batch
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.engine_checks import engine_errors, row_gap
from nnsight_et.interventions.method_checks import donated_values, taken_means_error, training_errors
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.measuring.context import MethodOutput, RunContext
from nnsight_et.measuring.evidence import Evidence
from nnsight_et.measuring.self_check import LEAST, VARIANTS, Check
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, Step
from nnsight_et.measuring.tolerance import EPSILONS, HALF, TOLERANCE, difference, residual_rounding, tolerance_of
from nnsight_et.planning.plan import Job, ModelChoice

EXAMPLES = 2  # of one recomputed sample
RECOUNT = 1e-5  # ratios are stored in the probabilities' own precision
EXACT = ("reference: source = base", "out of reach", "heads of queries", "heads of keys", "heads of values", "fill")
Values = Mapping[str, Tensor]
Audit = Callable[[Evidence], Iterable[Finding]]
"""Everything that a result says, held against what it was made from."""


def checks_of(context: RunContext, measurement: Measurement, at_once: bool) -> list[Check]:
    """What is checked of a measurement: its own, the model, once per experiment, and a sample of its values.

    The sample is drawn from the values [..., example], or, if it is to be drawn `at_once`, before they are there.
    """
    state, step, checks = context.self_check, measurement.step, list(measurement.checks)
    if not measurement.sampled or not state.on or step.job.engine == "reference":
        return checks
    checks += _engine_checks(context, measurement)
    if state.is_due((_kind(measurement.cache_key), *step.model), len(step.examples), measurement.variants):
        checks.append(_sample(context, measurement, at_once))
    return checks


def run_checks(context: RunContext, job: Job, choice: ModelChoice, checks: Sequence[Check]) -> None:
    """Make the checks, one by one; ExperimentError if one fails."""
    start = time.monotonic()
    for check in checks:
        found = list(context.executor.results(job, choice, check.calls))
        if check.upcast_calls:
            upcast = EvalSettings("reference", upcast=True).choice(choice)
            found += context.executor.results(job, upcast, check.upcast_calls)
        check.verify(found)
    context.self_check.seconds += time.monotonic() - start


def check_output(context: RunContext, job: Job, output: MethodOutput[Any], audit: Audit) -> None:
    """Derive what the experiment decided and counted again from what was measured; ExperimentError if it differs."""
    start, worst = time.monotonic(), dict[str, Finding]()
    try:
        for found in audit(Evidence(job, output.scores, output.summary, context)) if context.self_check.on else ():
            if found.check not in worst or found.gap > worst[found.check].gap:
                worst[found.check] = found
    except (LookupError, TypeError, ValueError) as error:  # something is not there, or of another kind
        worst = {"decisions": finding("decisions", False, f"{type(error).__name__}: {error}")}
    for found in worst.values():
        more = {"at": found.where} if found.gap > RECOUNT else {}
        context.self_check.add(job, found.check, found.gap, RECOUNT, **more)
    context.measured.pop(job.name, None)
    context.trained.pop(job.name, None)
    context.self_check.seconds += time.monotonic() - start


def _kind(what: Mapping[str, Any]) -> str:
    """What is done, whichever heads it is done to: a cell's parts, where a path ends, which edge is blocked."""
    return " ".join([*what, *map(str, (what.get("path") or what.get("knockout") or ())[:2])])


def _sample(context: RunContext, measurement: Measurement, at_once: bool) -> Check:
    """A few of the values against the reference engine's, which measures each example by itself, without padding."""
    state, step = context.self_check, measurement.step
    draw = random.Random(f"{step.job.seed}/self-check/{step.name}")
    batch = draw.choice(step.batches)
    variants = (
        _drawn_indices(measurement.variants, draw) if at_once else _variants(context.cells.values(measurement), draw)
    )
    examples = 1 if state.cells >= LEAST else max(EXAMPLES, LEAST // len(variants))
    some = tuple(sorted(draw.sample(batch, min(examples, len(batch)))))
    settings, dtype = EvalSettings("reference", variants), step.choice.dtype
    upcast = dtype not in TOLERANCE and context.chunk_sizes.fits_upcast(step.choice)
    calls = tuple(measurement.measure((index,), settings) for index in some)

    def verify(alone: list[Values]) -> None:
        found = context.cells.values(measurement)
        found = {name: tensor[..., list(some)] for name, tensor in found.items()}
        found = {name: tensor[list(variants)] if tensor.ndim == 2 else tensor for name, tensor in found.items()}
        expected = [_joined_values(alone[i : i + len(some)]) for i in range(0, len(alone), len(some))]
        worst, tolerance = _largest_gaps(found, expected, dtype, context.models.shape(step.choice).n_layers)
        there = context.models.in_memory
        other = there is not None and there[::2] != step.model[::2]  # in fp32 it may be now
        state.add(step.job, "model", float(other), 0.0, step=step.name)
        cells = len(some) * len(variants)
        state.add(step.job, "reference engine", worst, tolerance, step=step.name, cells=cells)

    in_fp32 = replace(settings, upcast=True)
    return Check(calls, verify, tuple(measurement.measure((index,), in_fp32) for index in some) if upcast else ())


def _joined_values(alone: Sequence[Values]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in alone], -1) for name in alone[0]}


def _drawn_indices(count: int, draw: random.Random) -> tuple[int, ...]:
    return tuple(sorted(draw.sample(range(count), min(VARIANTS, count))))


def _variants(values: Values, draw: random.Random) -> tuple[int, ...]:
    """The variant whose values stand out most, and others drawn at random."""
    for name, tensor in values.items():
        if tensor.ndim == 2 and name != "predicted":
            mean = tensor.double().mean(-1)
            extreme = int((mean - mean.median()).abs().argmax())
            others = [index for index in range(len(tensor)) if index != extreme]
            return tuple(sorted([extreme, *draw.sample(others, min(VARIANTS - 1, len(others)))]))
    return (0,)


def _largest_gaps(found: Values, expected: Sequence[Values], dtype: str, n_layers: int) -> tuple[float, float]:
    """How far `found` lies from what the reference engine gives, or gives in fp32 too, and how far it may."""
    if dtype in TOLERANCE:
        return difference(found, expected[0]), TOLERANCE[dtype]
    epsilon = torch.finfo(getattr(torch, dtype)).eps
    found = {name: tensor for name, tensor in found.items() if name != "predicted"}  # ties are common
    if len(expected) == 1:
        return difference(found, expected[0]), EPSILONS * epsilon
    own = difference(expected[0], expected[1], found)  # of a few cells, so it can be small by chance
    return difference(found, expected[1]), HALF * max(own, residual_rounding(epsilon, n_layers)) + epsilon


def means_check(
    context: RunContext,
    job: Job,
    choice: ModelChoice,
    prompts: Sequence[Prompt],
    names: tuple[str, ...] | None,
    together: Callable[[Batch], PromptBatch],
) -> list[Check]:
    """The means over two of the prompts, which `together` makes a batch of, against each of them run alone."""
    state = context.self_check
    if not state.on:
        return []
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    some = tuple(dict.fromkeys((order[0], order[-1])))
    alone = [padded_batch([prompts[index]]) for index in some]
    call = Call(taken_means_error, (together(some), alone, names))
    return [Check((call,), lambda found: state.add(job, "means", found[0], tolerance_of(choice.dtype)))]


def donation_check(
    context: RunContext, step: Step, given: Sequence[Circuit] | HeadGroup, cells: Callable[[Batch], Values]
) -> list[Check]:
    """A cell a donor fills against its run of one prompt alone: outputs of sets' heads, or inputs of a group's."""
    state = context.self_check
    if not state.on:
        return []
    draw = random.Random(f"{step.job.seed}/self-check/{step.name}")
    batch = draw.choice(step.batches)
    example = draw.choice(batch)
    base = context.data.pair(step.choice, step.examples, [example]).base

    def verify(alone: list[Values]) -> None:
        expected = alone[0]
        found = {name: tensor[batch.index(example)] for name, tensor in cells(batch).items()}
        found = {name: tensor[-len(expected[name]) :] for name, tensor in found.items()}  # without the batch's padding
        alike = all(found[name].shape == rows.shape for name, rows in expected.items())
        gaps = [row_gap(found[name], rows).item() for name, rows in expected.items()] if alike else [float("inf")]
        worst = max(gaps, default=0.0)  # a set without heads gives nothing
        state.add(step.job, "donation", worst, tolerance_of(step.choice.dtype), step=step.name)

    return [Check((Call(donated_values, (base, given)),), verify)]


def training_check(
    context: RunContext, job: Job, groups: Sequence[HeadGroup], examples: Sequence[Example]
) -> list[Check]:
    """Gradient and direction of mask training against whole runs in fp32, once per experiment.

    On some heads of the group at the earliest position: the one that is furthest from where it is in the source.
    """
    choice, state = job.models[0], context.self_check
    if not state.on or choice.dtype not in TOLERANCE or ("mask training",) in state.kinds:
        return []
    state.kinds.add(("mask training",))
    pair = context.data.pair(choice, examples, range(min(EXAMPLES, len(examples))))
    group = min(groups, key=lambda one: int(pair.base.positions[one.at].min()))
    draw = random.Random(f"{job.seed}/self-check/{group.name}")
    heads = sorted(draw.sample(group.heads, min(VARIANTS, len(group.heads))))

    def verify(found: list[dict[str, float]]) -> None:
        for name, error in found[0].items():
            state.add(job, name, error, tolerance_of(choice.dtype), group=group.name)

    return [Check((Call(training_errors, (HeadGroup(group.name, group.at, tuple(heads)), pair)),), verify)]


def _engine_checks(context: RunContext, measurement: Measurement) -> list[Check]:
    """Once per experiment and model: what must hold of any model and any prompts, on two of the step's."""
    step = measurement.step
    if step.model in context.self_check.models:
        return []
    context.self_check.models.add(step.model)
    state, errors = context.self_check, context.engine_errors
    pair = context.data.pair(step.choice, step.examples, step.batches[0][:2])
    calls = () if step.model in errors else (Call(engine_errors, (pair,)),)

    def verify(found: list[dict[str, float]]) -> None:
        if found:
            errors[step.model] = found[0]
        for check, error in errors[step.model].items():
            exact = check in EXACT
            tolerance = 0.0 if exact else tolerance_of(step.choice.dtype)
            state.add(step.job, check, error, tolerance, model=step.choice.name)

    return [Check(calls, verify)]
