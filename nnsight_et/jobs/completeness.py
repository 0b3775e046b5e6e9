"""Completeness jobs (App. C): circuit and model without the same heads; in a complete circuit both lose alike."""

from __future__ import annotations

import random
from collections.abc import Generator

import torch

from nnsight_et.circuit import Circuit, HeadGroup
from nnsight_et.jobs.cells import data_digest
from nnsight_et.jobs.circuits import circuits_alone, model_without, trial
from nnsight_et.jobs.correct import chosen_examples
from nnsight_et.jobs.work import Outcome, Progress, Work
from nnsight_et.manifest import Completeness
from nnsight_et.metrics import completeness
from nnsight_et.plan import Job

SPLIT = "evaluation"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit the model."""
    work.check_circuit(job, job.models[0])
    work.examples(job, job.models[0], SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Random halves of the circuit, then each of its groups: a point of the scatter, and a line of the table."""
    spec, choice = job.spec, job.models[0]
    assert isinstance(spec, Completeness)
    circuit = work.circuit(job)
    work.check_circuit(job, choice, circuit)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    prompts = trial(work, job, choice, examples, spec.ablation, spec.ablation_examples)
    answers = torch.tensor([example.answer for example in examples])
    sets = [*random_halves(circuit, spec.draws, job.seed), *(Circuit((group,)) for group in circuit.groups)]
    alone = yield from circuits_alone(work, job, prompts, [circuit.without(heads) for heads in sets], "circuit")
    remainder = yield from model_without(work, job, prompts, sets, "model")
    in_circuit = (alone["predicted"] == answers).double().mean(-1)
    in_model = (remainder["predicted"] == answers).double().mean(-1)
    names = [*(f"random {i + 1}" for i in range(spec.draws)), *(group.name for group in circuit.groups)]
    rows = [
        {"removed": name, "heads": heads.size, "circuit": c, "model": m, "completeness": completeness(c, m)}
        for name, heads, c, m in zip(names, sets, in_circuit.tolist(), in_model.tolist(), strict=True)
    ]
    drawn = torch.stack([in_model, in_circuit, (in_model - in_circuit).abs()])[:, : spec.draws]
    spread = {
        name: {"mean": values.mean().item(), "std": values.std(correction=0).item()}
        for name, values in zip(("model", "circuit", "completeness"), drawn, strict=True)
        if spec.draws
    }
    summary = {"rows": rows, "random": spread, "circuit": circuit.to_dict()}
    scores = {f"circuit.{name}": values for name, values in alone.items()}
    scores |= {f"model.{name}": values for name, values in remainder.items()} | {"answer": answers}
    return Outcome(scores, summary, data_digest(examples))


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
