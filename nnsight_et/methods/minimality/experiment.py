"""Minimality jobs (App. B): every head of a circuit tried without the heads that make up for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.lists import to_list
from nnsight_et.core.metrics import contribution, greedy_set, greedy_ties, is_kept, is_right
from nnsight_et.core.statistics import accuracy_intervals, ratio_interval
from nnsight_et.manifest import Minimality
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.circuits import AblationSetup, check_data_and_circuit, circuits_alone, set_up_ablation
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.predictions import select_examples
from nnsight_et.measuring.steps import Measurement, data_digest
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.minimality import audit, present
from nnsight_et.methods.minimality.summary import HeadRecord, MinimalitySummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.records import CircuitRecord, Interval

SPLIT = "pruning"


def measure(context: RunContext, job: Job[Minimality]) -> Generator[Progress, None, MethodOutput[MinimalitySummary]]:
    """Group by group: all pairs of its heads, then every head with and without its own K, and put back."""
    spec, choice = job.spec, job.models[0]
    circuit = context.earlier.circuit(job, empty=True)
    context.models.check_circuit(job, choice, circuit)
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    setup = set_up_ablation(context, job, choice, examples, spec.ablation, spec.ablation_examples)
    groups, rows, scores = list[HeadGroup](), list[HeadRecord](), dict[str, Tensor]()
    pairs = yield from _pair_accuracies(setup, circuit)
    removed = {
        group: [greedy_set(pairs[group], number, spec.fraction) for number in range(len(group.heads))]
        for group in circuit.groups
    }
    right = yield from _before_and_after(setup, circuit, removed)
    for group in circuit.groups:
        values = right[group].mean(-1)
        kept = [is_kept(before, after, spec.threshold) for before, after in to_list(values)]
        groups.append(HeadGroup(group.name, group.at, _where(group.heads, kept)))
        ties = [greedy_ties(pairs[group], number, spec.fraction) for number in range(len(group.heads))]
        rows += _rows(group, removed[group], right[group], kept, ties)
        scores |= {f"{group.name}.pair_accuracy": pairs[group], f"{group.name}.before_after": values}
    summary = MinimalitySummary(
        circuit=CircuitRecord.of(Circuit(tuple(groups))), candidate=CircuitRecord.of(circuit), heads=rows
    )
    return MethodOutput(scores, summary, data_digest(examples))


def _pair_accuracies(setup: AblationSetup, circuit: Circuit) -> Generator[Progress, None, dict[HeadGroup, Tensor]]:
    """Group -> [head, head]: F of the circuit without two heads of the group; on the diagonal without one."""
    accuracies, measurements = dict[HeadGroup, Tensor](), dict[HeadGroup, Measurement]()
    for group in circuit.groups:
        accuracies[group] = torch.zeros(len(group.heads), len(group.heads), dtype=torch.float64)
        fewer = [circuit.without(_part(group, pair)) for pair in _pairs(group)]
        if fewer:
            measurements[group] = circuits_alone(setup, fewer, f"{group.name} pairs")
    yield from measure_cells(setup.context, list(measurements.values()))
    for group, measurement in measurements.items():
        right = is_right(setup.context.cells.values(measurement)["predicted"], setup.answers)
        for (v, w), value in zip(_pairs(group), right.double().mean(-1), strict=True):
            accuracies[group][v, w] = accuracies[group][w, v] = value
    return accuracies


def _pairs(group: HeadGroup) -> list[tuple[int, int]]:
    """The numbers of every head of the group with itself, and of every two."""
    return [(v, w) for v in range(len(group.heads)) for w in range(v, len(group.heads))]


def _before_and_after(
    setup: AblationSetup, circuit: Circuit, removed: dict[HeadGroup, list[tuple[int, ...]]]
) -> Generator[Progress, None, dict[HeadGroup, Tensor]]:
    """Group -> [head, 2, example]: whether C \\ K and C \\ (K + v) are right, for every head v with its own K."""
    measurements = dict[HeadGroup, Measurement]()
    for group, sets in removed.items():
        fewer = list[Circuit]()
        for number, others in enumerate(sets):
            fewer += [circuit.without(_part(group, others)), circuit.without(_part(group, (*others, number)))]
        if fewer:
            measurements[group] = circuits_alone(setup, fewer, f"{group.name} heads")
    yield from measure_cells(setup.context, list(measurements.values()))
    right = {group: torch.zeros(0, 2, len(setup.examples), dtype=torch.float64) for group in removed}
    for group, measurement in measurements.items():
        predicted = setup.context.cells.values(measurement)["predicted"]
        right[group] = is_right(predicted, setup.answers).double().unflatten(0, (-1, 2))
    return right


def _part(group: HeadGroup, numbers: tuple[int, ...]) -> Circuit:
    """The heads of the group with these numbers, in a circuit of their own."""
    return Circuit((HeadGroup(group.name, group.at, tuple(group.heads[number] for number in sorted(set(numbers)))),))


def _names(group: HeadGroup, numbers: tuple[int, ...]) -> list[str]:
    """The names of the group's heads with these numbers."""
    return [str(group.heads[number]) for number in numbers]


def _rows(
    group: HeadGroup,
    removed: list[tuple[int, ...]],
    right: Tensor,
    kept: list[bool],
    ties: list[tuple[int, ...]],
) -> list[HeadRecord]:
    """The group's heads with their numbers and intervals, from right [head, 2, example]."""
    return [
        HeadRecord(
            group=group.name,
            head=str(head),
            without=_names(group, removed[number]),
            before=before,
            after=after,
            contribution=_finite(contribution(before, after)),
            kept=kept[number],
            tied=_names(group, ties[number]),
            **_bounds(right[number]),
        )
        for number, (head, (before, after)) in enumerate(zip(group.heads, to_list(right.mean(-1)), strict=True))
    ]


def _bounds(right: Tensor) -> dict[str, Interval]:
    """Intervals of a head's before, after and contribution, from right [2, example]."""
    (before, after), (low, high) = accuracy_intervals(right), ratio_interval(right[0], right[1])
    contribution: Interval = [low - 1, high - 1]
    return {"before_interval": before, "after_interval": after, "contribution_interval": contribution}


def _finite(value: float) -> float | Literal["infinite"]:
    """JSON has no infinity: a head that all of the accuracy hangs on is written as text."""
    return "infinite" if value == float("inf") else value


def _where(heads: tuple[Head, ...], kept: list[bool]) -> tuple[Head, ...]:
    return tuple(head for head, keep in zip(heads, kept, strict=True) if keep)


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
