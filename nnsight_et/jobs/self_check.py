"""Checks inside every run: a sample of what the default engine measured, measured again by the reference engine.

A check that fails stops the experiment before its result is written. In every experiment, what is done to each model
for the first time is checked, on at least four cells in all, a cell being one variant of one example, measured alone;
what is done again, with other examples, desiderata or groups, as often as 3% of the forward passes allow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from nnsight_et.batch import Example, Pair, Prompt, padded
from nnsight_et.circuit import HeadGroup
from nnsight_et.errors import ExperimentError
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.method_checks import donated_values, means_error, training_errors
from nnsight_et.jobs.how import How, Measure
from nnsight_et.jobs.recount import recounted
from nnsight_et.jobs.tolerance import EPSILONS, HALF, TOLERANCE, difference, tolerance_of
from nnsight_et.models.model import Model
from nnsight_et.plan import Job

if TYPE_CHECKING:
    from nnsight_et.jobs.cells import Batch, Step
    from nnsight_et.jobs.work import Outcome, Work

EXAMPLES, VARIANTS, LEAST = 2, 2, 4  # of one recomputed sample; and cells of every experiment
SHARE = 0.03  # of an experiment's forward passes
PER_CELL = 32.0  # what a cell costs: some passes of the reference engine, over one prompt and so far from efficient
RECOUNT = 1e-5  # ratios are stored in the probabilities' own precision


Check = TypeVar("Check", bound=Callable[..., None])


@dataclass
class SelfCheck:
    """What was checked so far of one experiment."""

    on: bool = True
    found: list[dict[str, Any]] = field(default_factory=list)
    models: set[tuple[str, str, str]] = field(default_factory=set)
    kinds: set[tuple[str, ...]] = field(default_factory=set)
    allowance: float = 0.0
    seconds: float = 0.0

    @property
    def cells(self) -> int:
        """How many cells were measured again so far."""
        return sum(check.get("cells", 0) for check in self.found)

    def is_due(self, kind: tuple[str, ...], examples: int, variants: int) -> bool:
        """Whether a step is checked: it is the first of its kind, or there is room for it."""
        self.allowance += SHARE * examples * (2 + variants / 10)
        first = kind not in self.kinds or self.cells < LEAST
        self.kinds.add(kind)
        if not first and self.allowance < PER_CELL * VARIANTS:
            return False
        self.allowance -= PER_CELL * VARIANTS
        return True

    def add(self, job: Job, name: str, worst: float, tolerance: float, **more: Any) -> None:
        """Note a check that has passed; ExperimentError if it has not."""
        if not worst <= tolerance:
            where = f"experiments.{job.name}: self-check '{name}'{''.join(f', {key} {more[key]}' for key in more)}"
            raise ExperimentError(
                f"{where}: found a difference of {worst:.3g}; accepted: at most {tolerance:.3g}; "
                "the experiment's result was not written"
            )
        self.found.append({"check": name, "worst": worst, "tolerance": tolerance} | more)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for the result's header."""
        return {"on": self.on, "checks": self.found, "seconds": round(self.seconds, 3)}


def _timed(check: Check) -> Check:
    """The check, whose time is added to what all checks of the experiment took."""

    @wraps(check)
    def timed(work: Work, *arguments: Any) -> None:
        start = time.monotonic()
        try:
            check(work, *arguments)
        finally:
            work.self_check.seconds += time.monotonic() - start

    return cast("Check", timed)


@_timed
def sampled(work: Work, step: Step, kind: str, measure: Measure, values: Mapping[str, Tensor]) -> None:
    """Hold some of the step's values [..., example] against the reference engine's; ExperimentError if they differ.

    Steps of one `kind` do the same to a model.
    """
    state, job = work.self_check, step.job
    if not state.on or job.engine == "reference":
        return
    _check_engine(work, step)
    count = max((len(tensor) for tensor in values.values() if tensor.ndim == 2), default=1)
    if not state.is_due((kind, *step.model), len(step.examples), count):
        return
    draw = random.Random(f"{job.seed}/self-check/{step.name}")
    batch = draw.choice(step.batches)
    variants = _variants(values, draw)
    examples = 1 if state.cells >= LEAST else max(EXAMPLES, LEAST // len(variants))
    some = tuple(sorted(draw.sample(batch, min(examples, len(batch)))))
    found = {name: tensor[..., list(some)] for name, tensor in values.items()}
    found = {name: tensor[list(variants)] if tensor.ndim == 2 else tensor for name, tensor in found.items()}
    expected = _alone(measure, some, How("reference", variants))
    state.add(job, "model", float(work.in_memory != step.model), 0.0, step=step.name)
    worst, tolerance = _compared(work, step, measure, found, (expected, some, variants))
    cells = len(some) * len(variants)
    state.add(job, "reference engine", worst, tolerance, step=step.name, cells=cells)


def _alone(measure: Measure, some: Batch, how: How) -> dict[str, Tensor]:
    """What is measured of each example by itself: no other prompt beside it, and no padding."""
    found = [measure((index,), how) for index in some]
    return {name: torch.cat([one[name] for one in found], -1) for name in found[0]}


def _variants(values: Mapping[str, Tensor], draw: random.Random) -> tuple[int, ...]:
    """The variant whose values stand out most, and others drawn at random."""
    for name, tensor in values.items():
        if tensor.ndim == 2 and name != "predicted":
            mean = tensor.double().mean(-1)
            extreme = int((mean - mean.median()).abs().argmax())
            others = [index for index in range(len(tensor)) if index != extreme]
            return tuple(sorted([extreme, *draw.sample(others, min(VARIANTS - 1, len(others)))]))
    return (0,)


def _compared(
    work: Work,
    step: Step,
    measure: Measure,
    found: Mapping[str, Tensor],
    again: tuple[Mapping[str, Tensor], Batch, tuple[int, ...]],
) -> tuple[float, float]:
    """How far `found` lies from what the reference engine gives, and how far it may."""
    (expected, some, variants), dtype = again, step.choice.dtype
    if dtype in TOLERANCE:
        return difference(found, expected), TOLERANCE[dtype]
    epsilon = torch.finfo(getattr(torch, dtype)).eps
    found = {name: tensor for name, tensor in found.items() if name != "predicted"}  # ties are common
    if not work.fits_wide(step.choice):
        return difference(found, expected), EPSILONS * epsilon
    truth = _alone(measure, some, How("reference", variants, wide=True))
    return difference(found, truth), HALF * difference(expected, truth, found) + epsilon


@_timed
def check_means(
    work: Work,
    job: Job,
    model: Model,
    prompts: Sequence[Prompt],
    names: tuple[str, ...] | None,
    means: Callable[[Batch], Tensor],
) -> None:
    """Hold the means [layer, slot, head, d_head] that `means` takes over two prompts against each prompt run alone."""
    if not work.self_check.on:
        return
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].tokens))
    some = tuple(dict.fromkeys((order[0], order[-1])))
    alone = [padded([prompts[index]]).to(model.device) for index in some]
    error = means_error(model, alone, names, means(some))
    work.self_check.add(job, "means", error, tolerance_of(model.dtype))


@_timed
def check_donation(work: Work, step: Step, keys: Mapping[Batch, str], group: HeadGroup | None) -> None:
    """Hold the cells a donor fills against its run of one prompt alone: outputs, or with a group its heads' inputs."""
    state, donor = work.self_check, step.job.models[0]
    if not state.on:
        return
    draw = random.Random(f"{step.job.seed}/self-check/{step.name}")
    batch = draw.choice(list(keys))
    example = draw.choice(batch)
    model, cell = work.model(step.job, donor), work.cell(keys[batch])
    found = {name: tensor[batch.index(example)] for name, tensor in cell.items()}
    expected = donated_values(model, work.pair(model, donor, step.examples, [example]).base, group, list(cell))
    found = {name: tensor[-len(expected[name]) :] for name, tensor in found.items()}  # without the batch's padding
    state.add(step.job, "donation", difference(found, expected), tolerance_of(model.dtype), step=step.name)


@_timed
def check_training(work: Work, job: Job, groups: Sequence[HeadGroup], examples: Sequence[Example]) -> None:
    """Hold gradient and direction of mask training against whole runs in fp32, once per experiment.

    On some heads of the group at the earliest position: the one that is furthest from where it is in the source.
    """
    choice, state = job.models[0], work.self_check
    if not state.on or choice.dtype not in TOLERANCE or ("mask training",) in state.kinds:
        return
    state.kinds.add(("mask training",))
    model = work.model(job, choice)
    pair = work.pair(model, choice, examples, range(min(EXAMPLES, len(examples))))
    group = min(groups, key=lambda one: int(pair.base.positions[one.at].min()))
    draw = random.Random(f"{job.seed}/self-check/{group.name}")
    heads = sorted(draw.sample(group.heads, min(VARIANTS, len(group.heads))))
    errors = training_errors(model, HeadGroup(group.name, group.at, tuple(heads)), pair)
    for name, error in errors.items():
        state.add(job, name, error, tolerance_of(model.dtype), group=group.name)


@_timed
def check_outcome(work: Work, job: Job, outcome: Outcome) -> None:
    """Count the numbers of the summary once more, where they are counted from tensors."""
    worst = recounted(job, outcome.scores, outcome.summary) if work.self_check.on else None
    if worst is not None:
        work.self_check.add(job, "recount", worst, RECOUNT)


def _check_engine(work: Work, step: Step) -> None:
    """Once per experiment and model: what must hold of any model and any prompts, on two of the step's."""
    choice, job = step.choice, step.job
    name = (choice.name, choice.dtype, job.attention)
    if name in work.self_check.models:
        return
    work.self_check.models.add(name)
    if name not in work.engine_errors:
        model = work.model(job, choice)
        first = step.batches[0][:2]
        pair: Pair = work.pair(model, choice, step.examples, first)
        work.engine_errors[name] = engine_errors(model, pair)
    tolerance = tolerance_of(getattr(torch, choice.dtype))
    for check, error in work.engine_errors[name].items():
        exact = check in EXACT
        work.self_check.add(job, check, error, 0.0 if exact else tolerance, model=choice.name)


EXACT = ("reference: source = base", "out of reach", "heads of queries", "heads of keys", "heads of values", "fill")
