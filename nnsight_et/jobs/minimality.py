"""Minimality jobs (App. B): every head of a circuit tried without the heads that make up for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.jobs.cells import data_digest
from nnsight_et.jobs.circuits import Trial, circuits_alone, trial
from nnsight_et.jobs.correct import chosen_examples
from nnsight_et.jobs.work import Outcome, Progress, Work
from nnsight_et.manifest import Minimality
from nnsight_et.metrics import contribution, greedy_set, is_kept
from nnsight_et.plan import Job
from nnsight_et.statistics import intervals, ratio_interval

SPLIT = "pruning"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit the model."""
    work.check_circuit(job, job.models[0])
    work.examples(job, job.models[0], SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Group by group: all pairs of its heads, then every head with and without its own K, and put back."""
    spec, choice = job.spec, job.models[0]
    assert isinstance(spec, Minimality)
    circuit = work.circuit(job, empty=True)
    work.check_circuit(job, choice, circuit)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    prompts = trial(work, job, choice, examples, spec.ablation, spec.ablation_examples)
    groups, rows, scores = [], [], {}
    for group in circuit.groups:
        pairs = yield from _pair_accuracies(work, job, prompts, circuit, group)
        removed = [greedy_set(pairs, number, spec.fraction) for number in range(len(group.heads))]
        right = yield from _before_and_after(work, job, prompts, circuit, group, removed)
        values = right.mean(-1)
        kept = [is_kept(before, after, spec.threshold) for before, after in values.tolist()]
        groups.append(HeadGroup(group.name, group.at, _where(group.heads, kept)))
        rows += _rows(group, removed, right, kept, job.seed)
        scores |= {f"{group.name}.pair_accuracy": pairs, f"{group.name}.before_after": values}
    summary = {"circuit": Circuit(tuple(groups)).to_dict(), "candidate": circuit.to_dict(), "heads": rows}
    return Outcome(scores, summary, data_digest(examples))


def _pair_accuracies(
    work: Work, job: Job, prompts: Trial, circuit: Circuit, group: HeadGroup
) -> Generator[Progress, None, Tensor]:
    """[head, head]: F of the circuit without two heads of the group; on the diagonal without one."""
    size = len(group.heads)
    pairs = [(v, w) for v in range(size) for w in range(v, size)]
    fewer = [circuit.without(_part(group, (v, w))) for v, w in pairs]
    accuracy = torch.zeros(size, size, dtype=torch.float64)
    if not fewer:
        return accuracy
    found = yield from circuits_alone(work, job, prompts, fewer, f"{group.name} pairs")
    for (v, w), value in zip(pairs, (found["predicted"] == prompts.answers).double().mean(-1), strict=True):
        accuracy[v, w] = accuracy[w, v] = value
    return accuracy


def _before_and_after(
    work: Work, job: Job, prompts: Trial, circuit: Circuit, group: HeadGroup, removed: list[tuple[int, ...]]
) -> Generator[Progress, None, Tensor]:
    """[head, 2, example]: whether C \\ K and C \\ (K + v) are right, for every head v of the group with its own K."""
    fewer = []
    for number, others in enumerate(removed):
        fewer += [circuit.without(_part(group, others)), circuit.without(_part(group, (*others, number)))]
    if not fewer:
        return torch.zeros(0, 2, len(prompts.examples), dtype=torch.float64)
    found = yield from circuits_alone(work, job, prompts, fewer, f"{group.name} heads")
    return (found["predicted"] == prompts.answers).double().unflatten(0, (-1, 2))


def _part(group: HeadGroup, numbers: tuple[int, ...]) -> Circuit:
    """The heads of the group with these numbers, in a circuit of their own."""
    return Circuit((HeadGroup(group.name, group.at, tuple(group.heads[number] for number in sorted(set(numbers)))),))


def _rows(
    group: HeadGroup, removed: list[tuple[int, ...]], right: Tensor, kept: list[bool], seed: int
) -> list[dict[str, Any]]:
    """The group's heads with their numbers and intervals, from right [head, 2, example]."""
    return [
        {
            "group": group.name,
            "head": str(head),
            "without": [str(group.heads[other]) for other in removed[number]],
            "before": before,
            "after": after,
            "contribution": _finite(contribution(before, after)),
            "kept": kept[number],
        }
        | _bounds(right[number], seed)
        for number, (head, (before, after)) in enumerate(zip(group.heads, right.mean(-1).tolist(), strict=True))
    ]


def _bounds(right: Tensor, seed: int) -> dict[str, list[float]]:
    """Intervals of a head's before, after and contribution, from right [2, example]."""
    (before, after), (low, high) = intervals(right, seed), ratio_interval(right[0], right[1], seed)
    contribution = [low.item() - 1, high.item() - 1]
    return {"before_interval": before, "after_interval": after, "contribution_interval": contribution}


def _finite(value: float) -> float | str:
    """JSON has no infinity: a head that all of the accuracy hangs on is written as text."""
    return "infinite" if value == float("inf") else value


def _where(heads: tuple[Head, ...], kept: list[bool]) -> tuple[Head, ...]:
    return tuple(head for head, keep in zip(heads, kept, strict=True) if keep)
