"""Completeness jobs (App. C): circuit and model without the same heads; in a complete circuit both lose alike."""

from __future__ import annotations

import random
from collections.abc import Generator

import torch
from torch import Tensor

from nnsight_et.core.batch import right_tokens
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.lists import to_list
from nnsight_et.core.metrics import completeness, is_right
from nnsight_et.core.statistics import accuracy_intervals, difference_interval
from nnsight_et.display.measurement import no_rows
from nnsight_et.manifest import Completeness
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.circuits import check_data_and_circuit, circuits_alone, model_without, set_up_ablation
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.predictions import answer_scores, select_examples
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.completeness import audit, present
from nnsight_et.methods.completeness.summary import (
    AccuracySpread,
    CompletenessRow,
    CompletenessSummary,
    NoHalves,
    RandomHalves,
    Spread,
)
from nnsight_et.planning.plan import Job
from nnsight_et.results.records import CircuitRecord

SPLIT = "evaluation"


def measure(
    context: RunContext, job: Job[Completeness]
) -> Generator[Progress, None, MethodOutput[CompletenessSummary]]:
    """Random halves of the circuit, then each of its groups: a point of the scatter, and a line of the table."""
    spec, choice = job.spec, job.models[0]
    circuit = context.earlier.circuit(job)
    context.models.check_circuit(job, choice, circuit)
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    setup = set_up_ablation(context, job, choice, examples, spec.ablation, spec.ablation_examples)
    answers = right_tokens(examples)
    sets = [*random_halves(circuit, spec.draws, job.seed), *(Circuit((group,)) for group in circuit.groups)]
    measurements = [
        circuits_alone(setup, [circuit.without(heads) for heads in sets], "circuit"),
        model_without(setup, sets, "model"),
    ]
    yield from measure_cells(context, measurements)
    alone, remainder = (context.cells.values(one) for one in measurements)
    right = torch.stack([is_right(readouts["predicted"], answers).double() for readouts in (alone, remainder)])
    names = [*(f"random {i + 1}" for i in range(spec.draws)), *(group.name for group in circuit.groups)]
    rows = [
        _row(name, heads.size, right[:, index]) for index, (name, heads) in enumerate(zip(names, sets, strict=True))
    ]
    halves = _random_halves(right[:, : spec.draws]) if spec.draws else NoHalves()
    summary = CompletenessSummary(rows=rows, random=halves, circuit=CircuitRecord.of(circuit))
    scores = {f"circuit.{name}": values for name, values in alone.items()}
    scores |= {f"model.{name}": values for name, values in remainder.items()} | answer_scores(answers)
    return MethodOutput(scores, summary, data_digest(examples))


def random_halves(circuit: Circuit, count: int, seed: int) -> list[Circuit]:
    """Sets of heads of the circuit, each head of each group in a set with probability 1/2; no set is empty."""
    draw = random.Random(f"{seed}/completeness")
    halves: list[Circuit] = []
    while len(halves) < count:
        groups = (
            HeadGroup(group.name, group.at, tuple(head for head in group.heads if draw.random() < 0.5))
            for group in circuit.groups
        )
        half = Circuit(tuple(groups))
        if half.size:
            halves.append(half)
    return halves


def _row(name: str, heads: int, right: Tensor) -> CompletenessRow:
    """A set's numbers and their intervals, from right [circuit and model, example]."""
    circuit, model = to_list(right.mean(-1))
    low, high = difference_interval(right[1], right[0])
    return CompletenessRow(
        removed=name,
        heads=heads,
        circuit=circuit,
        circuit_interval=accuracy_intervals(right[0]),
        model=model,
        model_interval=accuracy_intervals(right[1]),
        completeness=completeness(circuit, model),
        completeness_interval=[max(0.0, low, -high), max(abs(low), abs(high))],
        differing=int((right[0] != right[1]).sum()),
    )


def _random_halves(right: Tensor) -> RandomHalves:
    """Mean and standard deviation over the random sets, from right [circuit and model, set, example]."""
    circuit, model = right.mean(-1)
    of_circuit, of_model = (accuracy_intervals(one) for one in right.mean(1))
    return RandomHalves(
        model=AccuracySpread(mean_interval=of_model, **_spread(model)),
        circuit=AccuracySpread(mean_interval=of_circuit, **_spread(circuit)),
        completeness=Spread(**_spread((model - circuit).abs())),
    )


def _spread(values: Tensor) -> dict[str, float]:
    return {"mean": values.mean().item(), "std": values.std(correction=0).item()}


EXPERIMENT = Experiment(
    check=check_data_and_circuit,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=no_rows,
    paper=present.paper_numbers,
    statements=audit.statements,
)
