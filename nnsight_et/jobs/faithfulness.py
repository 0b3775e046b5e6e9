"""Faithfulness jobs: per model its accuracy, the circuit's, and random circuits', one cell per batch of examples."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from nnsight_et.batch import Example, Prompt, padded
from nnsight_et.circuit import Circuit
from nnsight_et.interventions.ablation import Means, circuit_readouts, mean_outputs, model_readouts, random_circuits
from nnsight_et.jobs.cells import Step, batches, data_digest, measured
from nnsight_et.jobs.work import Outcome, Progress, Work
from nnsight_et.manifest import Faithfulness
from nnsight_et.metrics import accuracy, faithfulness
from nnsight_et.plan import Job, ModelChoice, digest
from nnsight_et.statistics import bootstrap_interval

SPLIT, MEANS_SPLIT = "evaluation", "ablation"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit a model."""
    for choice in job.models:
        shape = work.shape(choice)
        if job.circuit is not None:
            job.circuit.check_fits(shape.n_layers, shape.n_heads, f"experiments.{job.name}.circuit: {choice.name}")
        work.examples(job, choice, SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Measure model after model; each sees the same prompts, circuits and random circuits."""
    spec, circuit = _spec(job), work.circuit(job)
    rows, scores, digests = [], {}, []
    for choice in job.models:
        shape = work.shape(choice)
        circuit.check_fits(shape.n_layers, shape.n_heads, f"experiments.{job.name}: {choice.name}")
        examples = work.examples(job, choice, SPLIT, spec.examples)
        circuits = [circuit, *random_circuits(circuit, shape.n_layers, shape.n_heads, spec.random_circuits, job.seed)]
        found = yield from _readouts(work, job, choice, circuits, examples)
        answers = torch.tensor([example.answer for example in examples])
        rows.append(_row(choice.name, found, answers, job.seed))
        scores |= {f"{choice.name}.{name}": tensor for name, tensor in (found | {"answer": answers}).items()}
        digests.append(data_digest(examples))
    return Outcome(scores, {"rows": rows, "circuit": circuit.to_dict()}, digest(digests))


def _readouts(
    work: Work, job: Job, choice: ModelChoice, circuits: list[Circuit], examples: list[Example]
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Readouts by name, in the examples' order: model.* [example], and circuit.* [circuit, example] of each alone."""
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))
    sizes = [(0, len(example.base.tokens)) for example in examples]
    step = Step(job, choice, choice.name, examples, tuple(batches(sizes, chunks.examples)))
    prompts = work.prompts(job, choice, MEANS_SPLIT, _spec(job).ablation_examples)
    names = slot_names(job, [*prompts, *(example.base for example in examples)])
    means: list[Means] = []

    def measure(some: Sequence[Example]) -> dict[str, Tensor]:
        model = work.model(job, choice)
        if not means:
            means.append(mean_over(work, job, choice, prompts, names))
        question = work.question(model, choice, some)
        whole = {f"model.{name}": values for name, values in model_readouts(model, question).items()}
        alone = circuit_readouts(model, question, means[0], circuits, job.engine, chunks)
        return whole | {f"circuit.{name}": values for name, values in alone.items()}

    what = {"circuits": [circuit.to_dict() for circuit in circuits], "means": [data_digest(prompts), names]}
    return (yield from measured(work, step, what, measure))


def mean_over(work: Work, job: Job, choice: ModelChoice, prompts: list[Prompt], names: tuple[str, ...] | None) -> Means:
    """The model's mean head outputs over the prompts, measured once and stored."""
    model = work.model(job, choice)
    key = work.key(job, choice, {"means": names, "data": data_digest(prompts)})
    cell = work.stored(key)
    if cell is None:
        chunks = work.chunks(job, choice, max(len(prompt.tokens) for prompt in prompts))
        sizes = [(0, len(prompt.tokens)) for prompt in prompts]
        runs = [
            padded([prompts[index] for index in batch], work.pad(choice)).to(model.device)
            for batch in batches(sizes, chunks.examples)
        ]
        cell = work.kept(key, mean_outputs(model, runs, names))
    return Means(cell["z"].to(model.device), names)


def slot_names(job: Job, prompts: Sequence[Prompt]) -> tuple[str, ...] | None:
    """None where means can be taken per absolute position: all prompts have one length; else the task's positions."""
    return None if len({len(prompt.tokens) for prompt in prompts}) == 1 else job.task.positions


def _row(name: str, found: dict[str, Tensor], answers: Tensor, seed: int) -> dict[str, Any]:
    """A model's line of Table 1; the 95% intervals are bootstraps over examples."""
    right = found["circuit.predicted"] == answers  # [circuit, example]
    whole, others = accuracy(found["model.predicted"], answers), right[1:].double().mean(-1)
    circuit = accuracy(found["circuit.predicted"][0], answers)
    both = torch.stack([found["model.predicted"] == answers, right[0]])
    low, high = bootstrap_interval(both, seed)
    return {
        "model": name,
        "full": whole,
        "full_interval": [low[0].item(), high[0].item()],
        "circuit": circuit,
        "circuit_interval": [low[1].item(), high[1].item()],
        "random_mean": others.mean().item() if len(others) else float("nan"),
        "random_std": others.std(correction=0).item() if len(others) else float("nan"),
        "faithfulness": faithfulness(circuit, whole),
        "examples": len(answers),
    }


def _spec(job: Job) -> Faithfulness:
    assert isinstance(job.spec, Faithfulness)
    return job.spec
