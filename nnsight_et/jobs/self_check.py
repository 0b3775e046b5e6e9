"""Checks inside every run: a sample of what the default engine measured, measured again by the reference engine.

A check that fails stops the experiment before anything of it is written. Checks cost at most about 3% of a run's
forward passes, and every experiment has some: at least four cells, a cell being one variant of one example.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from nnsight_et.batch import Pair
from nnsight_et.errors import ExperimentError
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.plan import Job, ModelChoice

if TYPE_CHECKING:
    from nnsight_et.jobs.cells import Batch, Step
    from nnsight_et.jobs.work import Work

SHARE = 0.03  # of a run's forward passes
EXAMPLES, VARIANTS = 2, 2  # of one recomputed sample
LEAST = 4  # cells of every experiment
PER_CELL = 4.0  # forward passes of the reference engine for one cell, at most
TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
"""How far the engines may lie apart: in log probabilities, and in other numbers relative to the larger of 1 and them.

In half precision both are held against the reference engine in fp32, and the default one may be at most HALF times as
far from it as the reference is in half precision; where the fp32 model is too large, the engines may lie EPSILONS
rounding units apart.
"""
HALF, EPSILONS = 4.0, 32.0
LOGARITHMIC = ("probability", "patched", "base")
Value = TypeVar("Value")


@dataclass(frozen=True)
class How:
    """How a step is measured: by which engine, which of its variants (None: all), and whether in fp32."""

    engine: str
    variants: tuple[int, ...] | None = None
    wide: bool = False

    def of(self, variants: Sequence[Value]) -> list[Value]:
        """Those of the step's variants that are measured."""
        return list(variants) if self.variants is None else [variants[index] for index in self.variants]

    def choice(self, choice: ModelChoice) -> ModelChoice:
        """The model with the dtype it is measured in."""
        return replace(choice, dtype="float32") if self.wide else choice


Measure = Callable[["Batch", How], dict[str, Tensor]]


@dataclass
class SelfCheck:
    """What was checked so far of one experiment, and how many forward passes its checks may still take."""

    on: bool = True
    found: list[dict[str, Any]] = field(default_factory=list)
    allowance: float = 0.0
    models: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def cells(self) -> int:
        """How many cells were measured again so far."""
        return sum(check.get("cells", 0) for check in self.found)

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
        return {"on": self.on, "checks": self.found}


def sampled(work: Work, step: Step, measure: Measure, values: Mapping[str, Tensor]) -> None:
    """Hold some of the step's values [..., example] against the reference engine's; ExperimentError if they differ."""
    state, job = work.self_check, step.job
    if not state.on or job.engine == "reference":
        return
    _check_engine(work, step)
    count = max((len(tensor) for tensor in values.values() if tensor.ndim == 2), default=1)
    state.allowance += SHARE * len(step.examples) * (2 + count / 10)
    draw = random.Random(f"{job.seed}/self-check/{step.name}")
    batch = draw.choice(step.batches)
    some = tuple(sorted(draw.sample(batch, min(EXAMPLES, len(batch)))))
    variants = _variants(values, draw)
    cost = PER_CELL * len(some) * len(variants)
    if cost > state.allowance and state.cells >= LEAST:
        return
    state.allowance -= cost
    found = {name: tensor[..., list(some)] for name, tensor in values.items()}
    found = {name: tensor[list(variants)] if tensor.ndim == 2 else tensor for name, tensor in found.items()}
    expected = measure(some, How("reference", variants))
    worst, tolerance = _compared(work, step, measure, found, (expected, some, variants))
    cells = len(some) * len(variants)
    state.add(job, "reference engine", worst, tolerance, step=step.name, cells=cells)


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
    truth = measure(some, How("reference", variants, wide=True))
    return difference(found, truth), HALF * difference(expected, truth, found) + epsilon


def difference(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Mapping[str, Any] | None = None
) -> float:
    """The largest difference of two sets of tensors of equal names; infinite if predictions or shapes do."""
    worst = 0.0
    for name in found if names is None else names:
        one, other = found[name].double(), expected[name].double()
        if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
            return float("inf")
        if name == "predicted":
            worst = worst if torch.equal(one, other) else float("inf")
            continue
        if name in LOGARITHMIC:
            one, other = one.clamp(min=1e-300).log(), other.clamp(min=1e-300).log()
            gap = one - other
        else:
            gap = (one - other) / other.abs().clamp(min=1)
        gap = gap[gap.isfinite()]
        worst = max(worst, gap.abs().max().item() if gap.numel() else 0.0)
    return worst


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
    tolerance = TOLERANCE.get(choice.dtype, EPSILONS * torch.finfo(getattr(torch, choice.dtype)).eps)
    for check, error in work.engine_errors[name].items():
        exact = check in EXACT
        work.self_check.add(job, check, error, 0.0 if exact else tolerance, model=choice.name)


EXACT = ("reference: source = base", "out of reach", "heads of queries", "heads of keys", "heads of values")
