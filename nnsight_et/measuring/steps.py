"""Steps of a job: what is measured of which examples, in which batches, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.self_check import Check
from nnsight_et.planning.plan import Job, ModelChoice, digest
from nnsight_et.tasks.boxes import VERSION

Value = TypeVar("Value")

Batch = tuple[int, ...]
"""Indices of a step's examples."""


@dataclass(frozen=True)
class EvalSettings:
    """How a step is measured: by which engine, which of its variants (None: all), and whether in fp32."""

    engine: str
    variants: tuple[int, ...] | None = None
    upcast: bool = False

    def select(self, variants: Sequence[Value]) -> list[Value]:
        """Those of the step's variants that are measured."""
        return list(variants) if self.variants is None else [variants[index] for index in self.variants]

    def choice(self, choice: ModelChoice) -> ModelChoice:
        """The model with the dtype it is measured in."""
        return replace(choice, dtype="float32") if self.upcast else choice


Measure = Callable[[Batch, EvalSettings], Call]
"""What a step measures of the examples with these indices: it finds tensors [..., batch] by name."""


@dataclass(frozen=True)
class Step:
    """A step of a job on one model: its examples, cut into batches of their indices."""

    job: Job
    choice: ModelChoice
    name: str
    examples: Sequence[Example]
    batches: tuple[Batch, ...]

    @property
    def model(self) -> tuple[str, str, str]:
        """Name, dtype and attention of the model that is measured."""
        return (self.choice.name, self.choice.dtype, self.job.attention)


@dataclass(frozen=True)
class Measurement:
    """What is measured of a step's examples."""

    step: Step
    cache_key: dict[str, Any]
    """What it is: with the data, the model and how it runs it names a cell."""
    measure: Measure
    variants: int = 1
    """Of how many interventions its tensors [variant, example] are."""
    checks: tuple[Check, ...] = ()
    """What is to be checked beside a sample of the values."""
    sampled: bool = True
    sources: tuple[Sequence[Example], ...] = ()
    """Where heads are patched from several: the examples of each."""


def whole_prompts(job: Job, choice: ModelChoice, name: str, examples: Sequence[Example], most: int) -> Step:
    """A step whose batches hold prompts of like length: for work that goes through whole prompts."""
    sizes = [(0, example.base.length) for example in examples]
    return Step(job, choice, name, examples, tuple(batches(sizes, most)))


def suffixes(
    job: Job, choice: ModelChoice, name: str, examples: Sequence[Example], positions: Sequence[str], most: int
) -> Step:
    """A step whose batches hold prompts with as many tokens from the first of `positions` on: for suffix passes."""
    sizes = []
    for example in examples:
        length = example.base.length
        sizes.append((length - min(example.base.positions[name] for name in positions), length))
    return Step(job, choice, name, examples, tuple(batches(sizes, most)))


def batches(sizes: Sequence[tuple[int, int]], most: int) -> Iterator[Batch]:
    """Indices of examples in batches of at most `most`, from each one's (group, length).

    Only examples of one group share a batch; within it they are sorted by length, equal ones in their order.
    """
    batch: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        if batch and (len(batch) == most or sizes[index][0] != sizes[batch[0]][0]):
            yield tuple(batch)
            batch = []
        batch.append(index)
    if batch:
        yield tuple(batch)


def data_digest(data: Sequence[Example] | Sequence[Prompt]) -> str:
    """Digest of encoded examples or prompts, in their order."""
    return digest([VERSION, [_plain(entry) for entry in data]])


def _plain(entry: Example | Prompt) -> list[Any]:
    if isinstance(entry, Prompt):
        return [entry.tokens, sorted(entry.positions.items())]
    more = [entry.also_right, entry.foils] if entry.also_right or entry.foils or entry.further else []
    further = [entry.further] if entry.further else []
    return [_plain(entry.base), _plain(entry.source), entry.answer, *more, *further]
