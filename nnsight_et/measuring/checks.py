"""The checks inside a run: what is drawn, what is asked of the model, what it is held against."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Prompt, PromptBatch, padded_batch
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.engine_checks import engine_errors, row_gap
from nnsight_et.interventions.method_checks import donated_values, taken_means_error, training_errors
from nnsight_et.manifest import BoxesTask
from nnsight_et.manifest.written import Scored
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.measuring.context import MethodOutput, RunContext
from nnsight_et.measuring.evidence import Evidence
from nnsight_et.measuring.self_check import LEAST, VARIANTS, Check
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, Step
from nnsight_et.measuring.tolerance import EPSILONS, HALF, TOLERANCE, difference, residual_rounding, tolerance_of
from nnsight_et.models.prints import file_print
from nnsight_et.planning.plan import Job, ModelChoice

EXAMPLES = 2  # of one recomputed sample
ORDER = ("manifest", "weights", "splits", "examples", "asked", "decisions", "recount")
"""The order in which failed checks are reported: causes before their consequences."""
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
    if state.is_due(
        (_kind(measurement.cache_key), *step.model), len(step.examples), measurement.variants, context.kinds
    ):
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


def check_cell(context: RunContext, job: Job, where: str, key: str, call: Call, stored: bool) -> None:
    """Raise ExperimentError if the cell's name has another one's work in this run, or in the store."""
    if context.self_check.on and not context.records.agrees(key, call, stored):
        context.self_check.add(job, "cells", math.inf, 0.0, step=where)


def _weights(context: RunContext, job: Job) -> Iterator[Finding]:
    """That models of the same files had the same weights in memory in all of the run, and others had others."""
    models, own = context.models, {(one.name, one.dtype, job.attention): one for one in job.models}
    context.loaded.update(own)
    for (key, choice), (other, known) in product(own.items(), context.loaded.items()):
        one, two = models.prints.get(key), models.prints.get(other)
        if one is not None and two is not None and key[1] == other[1]:
            same = models.fingerprint(choice) == models.fingerprint(known)
            same = same or (one == two and file_print(models.files(choice)) == file_print(models.files(known)))
            yield finding("weights", (one == two) == same, f"{choice.name} and {known.name}")


def _as_written(job: Job) -> Iterator[Finding]:
    """That the job is what the manifest's text asks for, key by key as it is written."""
    own = job.text.get("experiments", {}).get(job.name, {})
    settings = {key: job.text[key] for key in ("seed", "engine") if key in job.text}
    task = job.text.get("task") if isinstance(job.text.get("task"), dict) else None
    spec = job.spec.model_dump(mode="json")
    if isinstance(job.spec, Scored):
        spec["metric"] = job.spec.metric  # left out of plain data where it is the paper's
    yield finding("manifest", _says(spec, own), f"experiments.{job.name}")
    yield finding("manifest", all(getattr(job, key) == value for key, value in settings.items()), "settings")
    if isinstance(job.task, BoxesTask) and task:
        yield finding("manifest", _says(job.task.identity, task), "task")


def _says(found: Any, written: Any) -> bool:
    """Whether plain data contains everything that is written, with equal values and lists of equal length."""
    if isinstance(written, dict):
        return isinstance(found, dict) and all(key in found and _says(found[key], one) for key, one in written.items())
    if isinstance(written, list):
        return len(found) == len(written) and all(map(_says, found, written))
    return found == written


def check_output(context: RunContext, job: Job, output: MethodOutput[Any], audit: Audit) -> None:
    """Derive what the experiment decided and counted again from what was measured; ExperimentError if it differs.

    What cannot be derived at all is no difference but a fault of this package, and stays the exception that it is.
    """
    start, worst = time.monotonic(), dict[str, Finding]()
    try:
        derived = audit(Evidence(job, output.scores, output.summary, context))
        for found in chain(_as_written(job), _weights(context, job), derived) if context.self_check.on else ():
            if found.check not in worst or found.gap > worst[found.check].gap:
                worst[found.check] = found
    except (LookupError, TypeError, ValueError) as error:  # something is not there, or of another kind
        if all(found.gap <= RECOUNT for found in worst.values()):  # else it may come of what differs
            error.add_note(
                f"experiments.{job.name}: its result could not be derived again, and was not written; no file is "
                "damaged: this is a fault of nnsight_et"
            )
            raise
    for found in sorted(worst.values(), key=lambda one: ORDER.index(one.check)):
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
    stands_out = None if at_once else _extreme_variant(context.cells.values(measurement))
    width = min(VARIANTS, measurement.variants)
    some = _drawn_examples(step, draw, 1 if state.cells >= LEAST else max(EXAMPLES, LEAST // width), state.samples)
    variants = [_drawn_variants(measurement.variants, draw, stands_out, state.samples + i) for i in range(len(some))]
    state.samples += 1
    dtype = step.choice.dtype
    upcast = dtype not in TOLERANCE and context.chunk_sizes.fits_upcast(step.choice)
    settings = [EvalSettings("reference", chosen) for chosen in variants]
    calls = tuple(measurement.measure((index,), one) for index, one in zip(some, settings, strict=True))

    def verify(alone: list[Values]) -> None:
        values = context.cells.values(measurement)
        found = _joined_values([_part(values, index, chosen) for index, chosen in zip(some, variants, strict=True)])
        expected = [_joined_values(alone[i : i + len(some)]) for i in range(0, len(alone), len(some))]
        worst, tolerance = _largest_gaps(found, expected, dtype, context.models.shape(step.choice).n_layers)
        there = context.models.in_memory
        other = there is not None and there[::2] != step.model[::2]  # in fp32 it may be now
        state.add(step.job, "model", float(other), 0.0, step=step.name)
        state.add(step.job, "reference engine", worst, tolerance, step=step.name, cells=len(some) * width)

    in_fp32 = [replace(one, upcast=True) for one in settings] if upcast else []
    return Check(calls, verify, tuple(measurement.measure((i,), one) for i, one in zip(some, in_fp32, strict=False)))


def _joined_values(alone: Sequence[Values]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in alone], -1) for name in alone[0]}


def _part(values: Values, example: int, variants: tuple[int, ...]) -> dict[str, Tensor]:
    """Of one example, those of the variants, where values are by variant."""
    one = {name: tensor[..., [example]] for name, tensor in values.items()}
    return {name: tensor[list(variants)] if tensor.ndim == 2 else tensor for name, tensor in one.items()}


def _drawn_examples(step: Step, draw: random.Random, count: int, turn: int) -> tuple[int, ...]:
    """Examples of several batches: the last of all, one that is padded, one whose source is written otherwise, the
    first, then any. `turn` says with which of these to begin.
    """
    padded, apart = list[int](), list[int]()
    for batch in step.batches:
        length = max(step.examples[index].base.length for index in batch)
        padded += [index for index in batch if step.examples[index].base.length < length]
        examples = ((index, step.examples[index]) for index in batch)
        apart += [index for index, one in examples if one.base.positions != one.source.positions]
    first = [step.batches[-1][-1], *(draw.choice(some) for some in (padded, apart) if some), step.batches[0][0]]
    turn %= len(first)
    rest = draw.sample(range(len(step.examples)), min(count, len(step.examples)))
    return tuple(dict.fromkeys((*first[turn:], *first[:turn], *rest)))[:count]


def _drawn_variants(count: int, draw: random.Random, stands_out: int | None, turn: int) -> tuple[int, ...]:
    """As many as are sampled: that whose values stand out, and, in turn, the last, the first and any."""
    in_turn = (count - 1, 0, draw.randrange(count))[turn % 3]
    order = [in_turn if one is None else one for one in (stands_out, in_turn)] + draw.sample(
        range(count), min(2, count)
    )
    return tuple(sorted(list(dict.fromkeys(order))[: min(VARIANTS, count)]))


def _extreme_variant(values: Values) -> int | None:
    """The variant whose values stand out most."""
    for name, tensor in values.items():
        if tensor.ndim == 2 and name != "predicted":
            mean = tensor.double().mean(-1)
            return int((mean - mean.median()).abs().argmax())
    return None


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
    """The means over three of the prompts, of which `together` makes batches of two and one, against each run alone."""
    state = context.self_check
    if not state.on:
        return []
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    some = tuple(dict.fromkeys((order[0], order[-1], order[len(order) // 2])))
    alone = [padded_batch([prompts[index]]) for index in some]
    call = Call(taken_means_error, ([together(part) for part in (some[:2], some[2:]) if part], alone, names))
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
    context: RunContext, job: Job, groups: Sequence[HeadGroup], data: Sequence[Sequence[Example]]
) -> list[Check]:
    """Gradient and direction of mask training against whole runs in fp32, once per experiment.

    On some heads of the group at the earliest position: the one that is furthest from where it is in the source.
    data: the examples of training and of validation.
    """
    choice, state = job.models[0], context.self_check
    if not state.on or choice.dtype not in TOLERANCE or ("mask training",) in state.kinds:
        return []
    state.kinds.add(("mask training",))
    pair, validation = (context.data.pair(choice, some, range(min(EXAMPLES, len(some)))) for some in data)
    group = min(groups, key=lambda one: int(pair.base.positions[one.at].min()))
    draw = random.Random(f"{job.seed}/self-check/{group.name}")
    heads = sorted(draw.sample(group.heads, min(VARIANTS, len(group.heads))))

    def verify(found: list[dict[str, float]]) -> None:
        for name, error in found[0].items():
            state.add(job, name, error, tolerance_of(choice.dtype), group=group.name)

    return [Check((Call(training_errors, (HeadGroup(group.name, group.at, tuple(heads)), pair, validation)),), verify)]


def _engine_checks(context: RunContext, measurement: Measurement) -> list[Check]:
    """Once per experiment and model: what must hold of any model and any prompts, on two of the step's."""
    step = measurement.step
    if step.model in context.self_check.models:
        return []
    context.self_check.models.add(step.model)
    state, errors = context.self_check, context.engine_errors
    batch = max(step.batches, key=len)  # sources whose positions are others come first
    batch = sorted(
        batch, key=lambda index: step.examples[index].base.positions == step.examples[index].source.positions
    )
    pair = context.data.pair(step.choice, step.examples, sorted(batch[:2]))
    calls = () if step.model in errors else (Call(engine_errors, (pair,)),)

    def verify(found: list[dict[str, float]]) -> None:
        if found:
            errors[step.model] = found[0]
        for check, error in errors[step.model].items():
            exact = check in EXACT
            tolerance = 0.0 if exact else tolerance_of(step.choice.dtype)
            state.add(step.job, check, error, tolerance, model=step.choice.name)

    return [Check(calls, verify)]
