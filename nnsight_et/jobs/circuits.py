"""What the jobs that measure circuits share: their prompts, what ablated heads output, readouts of circuits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nnsight_et.batch import Example, Pair, Prompt, Run, padded
from nnsight_et.circuit import Circuit
from nnsight_et.errors import TaskError
from nnsight_et.interventions.ablation import (
    Fill,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    positions_of,
    remainder_readouts,
)
from nnsight_et.interventions.calls import Call
from nnsight_et.jobs.cells import Batch, Measurement, batches, data_digest, measured, suffixes, whole_prompts
from nnsight_et.jobs.checks import means_check
from nnsight_et.jobs.how import How
from nnsight_et.jobs.self_check import Check, run_checks
from nnsight_et.jobs.work import Progress, Work
from nnsight_et.plan import Job, ModelChoice

MEANS_SPLIT = "ablation"
Ablation = Literal["mean", "zero", "resample"]


@dataclass(frozen=True)
class Trial:
    """The prompts circuits are measured on, one model, and the prompts ablated heads' outputs come from.

    For resampling, each example's source is the prompt its ablated heads take their outputs from.
    """

    choice: ModelChoice
    examples: list[Example]
    prompts: list[Prompt]
    ablation: Ablation

    @property
    def answers(self) -> Tensor:
        """[example]: the right tokens."""
        return torch.tensor([example.answer for example in self.examples])

    @property
    def width(self) -> int:
        """The length of the longest prompt."""
        return max(len(example.base.tokens) for example in self.examples)


def trial(
    work: Work, job: Job, choice: ModelChoice, examples: list[Example], ablation: Ablation, ablation_examples: int
) -> Trial:
    """The trial of a job on one model; TaskError if resampling finds prompts of another length."""
    prompts = work.prompts(job, choice, MEANS_SPLIT, ablation_examples)
    if ablation == "resample":
        examples = [replace(one, source=prompts[i % len(prompts)]) for i, one in enumerate(examples)]
        if any(len(one.base.tokens) != len(one.source.tokens) for one in examples):
            raise TaskError(
                f"experiments.{job.name}.ablation: resample, and prompts differ in length; accepted: mean, zero"
            )
    return Trial(choice, examples, prompts, ablation)


def model_predictions(
    work: Work, job: Job, choice: ModelChoice, examples: Sequence[Example], name: str
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Readouts, by name, of the plain model: tensors [example]."""
    return (yield from measured(work, plain_measurement(work, job, choice, examples, name)))


def plain_measurement(work: Work, job: Job, choice: ModelChoice, examples: Sequence[Example], name: str) -> Measurement:
    """Of the plain model: readouts, by name, [example]."""
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))

    def measure(batch: Batch, how: How) -> Call:
        return Call(model_readouts, (work.pair(choice, examples, batch).question, how.engine))

    return Measurement(whole_prompts(job, choice, name, examples, chunks.examples), {"plain": True}, measure)


def circuits_alone(
    work: Work, job: Job, trial: Trial, circuits: Sequence[Circuit], name: str
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Readouts, by name, of each circuit alone: tensors [circuit, example]; their accuracy is F(C)."""
    chunks = work.chunks(job, trial.choice, trial.width)
    filling = _Filling(work, job, trial)

    def measure(batch: Batch, how: How) -> Call:
        pair = work.pair(trial.choice, trial.examples, batch)
        fill = filling.fill(pair)
        return Call(circuit_readouts, (pair.question, fill, how.of(circuits), how.engine, chunks))

    step = whole_prompts(job, trial.choice, name, trial.examples, chunks.examples)
    what = {"alone": [circuit.to_dict() for circuit in circuits], "ablation": filling.what()}
    return (yield from measured(work, Measurement(step, what, measure, len(circuits), filling.checks())))


def model_without(
    work: Work, job: Job, trial: Trial, knocked: Sequence[Circuit], name: str
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Readouts, by name, of the model without each set of heads: tensors [set, example]; their accuracy is F(M\\K)."""
    chunks = work.chunks(job, trial.choice, trial.width)
    filling = _Filling(work, job, trial)

    def measure(batch: Batch, how: How) -> Call:
        pair = work.pair(trial.choice, trial.examples, batch)
        fill = filling.fill(pair)
        return Call(remainder_readouts, (pair.question, fill, how.of(knocked), how.engine, chunks))

    step = suffixes(job, trial.choice, name, trial.examples, positions_of(knocked), chunks.examples)
    what = {"without": [heads.to_dict() for heads in knocked], "ablation": filling.what()}
    return (yield from measured(work, Measurement(step, what, measure, len(knocked), filling.checks())))


@dataclass
class _Filling:
    """What ablated heads output in the batches of a trial; means are taken when the first batch needs them."""

    work: Work
    job: Job
    trial: Trial
    common: Fill | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """None where means can be per absolute position: all prompts have one length; else the task's positions."""
        prompts = [*self.trial.prompts, *(example.base for example in self.trial.examples)]
        return None if len({len(prompt.tokens) for prompt in prompts}) == 1 else self.job.task.positions

    def what(self) -> list:
        """The part of a cell's name that says what ablated heads output."""
        mean = self.trial.ablation == "mean"
        return [self.trial.ablation, data_digest(self.trial.prompts) if mean else None, self.names if mean else None]

    def fill(self, pair: Pair) -> Fill:
        """The fill of one batch. Where the model is far away, means are taken where they are needed."""
        if self.trial.ablation == "zero":
            return Fill()
        if self.trial.ablation == "resample":
            return Fill(resampled=pair.source)
        if self.common is None:
            self.common = Fill(runs=self._runs(), names=self.names)
            if self.work.server is None:
                self.common = Fill(self._means(), self.names)
        return self.common

    def checks(self) -> tuple[Check, ...]:
        """Of the means, where they are not checked when they are taken."""
        if self.trial.ablation != "mean" or self.work.server is None:
            return ()
        return tuple(means_check(self.work, self.job, self.trial.choice, self.trial.prompts, self.names))

    def _runs(self) -> tuple[Run, ...]:
        work, choice, prompts = self.work, self.trial.choice, self.trial.prompts
        chunks = work.chunks(self.job, choice, max(len(prompt.tokens) for prompt in prompts))
        order = batches([(0, len(prompt.tokens)) for prompt in prompts], chunks.examples)
        return tuple(padded([prompts[i] for i in batch], work.pad(choice)) for batch in order)

    def _means(self) -> Tensor:
        """[layer, slot, head, d_head]: the model's means over the trial's prompts, measured once and stored."""
        work, choice, prompts = self.work, self.trial.choice, self.trial.prompts
        key = work.key(self.job, choice, {"means": self.names, "data": data_digest(prompts)})
        cell = work.stored(key)
        if cell is None:
            (found,) = work.results(self.job, choice, [Call(mean_outputs, (self._runs(), self.names), key)])
            run_checks(work, self.job, choice, means_check(work, self.job, choice, prompts, self.names))
            cell = work.kept(key, found)
        return cell["z"]
