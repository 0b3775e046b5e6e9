"""What experiments are made of when their cost is counted: measurements on each of their models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nnsight_et.core.circuit import Circuit
from nnsight_et.manifest import Experiment as Spec
from nnsight_et.manifest.methods.shared import Measured
from nnsight_et.planning.cost import expected, methods
from nnsight_et.planning.cost.methods import Count, Rows
from nnsight_et.planning.plan import Job

M = TypeVar("M", bound=Spec)
Piece = tuple[str, str, Count]
"""What is measured, empty if no other experiment measures the same; the model's name; and what it costs."""


@dataclass(frozen=True)
class CostSetting(Generic[M]):
    """A job, its models' prompts and sizes by name, and the circuits that are found or expected."""

    job: Job[M]
    rows: Mapping[str, Rows]
    circuits: Mapping[str, Circuit]

    @property
    def first(self) -> tuple[str, Rows]:
        """The job's only, or first, model."""
        name = self.job.models[0].name
        return name, self.rows[name]

    @property
    def circuit(self) -> Circuit:
        """Those groups of the job's circuit that have heads."""
        found = expected.circuit_used_by(self.job, self.circuits) or Circuit(())
        return Circuit(tuple(group for group in found.groups if group.heads))


def texts_made(split: str, texts: float, name: str) -> Piece:
    """Prompts that are made and encoded, once for models of one tokenizer."""
    return f"texts {split} {texts}", name, Count(texts=texts)


def ablation_means(setting: CostSetting[Any], name: str) -> Iterator[Piece]:
    """What ablated heads output, measured once per model."""
    spec = setting.job.spec
    assert isinstance(spec, Measured)
    if spec.ablation == "mean":
        count, rows = spec.ablation_examples, setting.rows[name]
        yield texts_made("ablation", count, name)
        yield f"{name}: means of {count}", name, methods.whole(rows, count, rows.top)


def circuits_alone(setting: CostSetting[Any], name: str, circuits: int) -> Piece:
    """So many circuits alone, on all examples."""
    spec, rows = setting.job.spec, setting.rows[name]
    assert isinstance(spec, Measured)
    count = methods.circuit_work(rows, spec.examples, circuits, setting.circuit.positions)
    if spec.ablation == "resample" and circuits:
        count += methods.whole(rows, spec.examples, rows.top)
    return "", name, count


def sets_of_groups(circuit: Circuit) -> list[Circuit]:
    """Each of its groups alone, and no heads."""
    return [*(Circuit((group,)) for group in circuit.groups), Circuit(())]


@dataclass(frozen=True)
class Estimate:
    """What an experiment is expected to cost: tokens times layers, floating-point operations, bytes, seconds."""

    token_layers: float
    flops: float
    peak: float
    seconds: float | None
    """None where no speed was measured."""
