"""What the jobs that measure circuits share: their prompts, what ablated heads output, readouts of circuits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from nnsight_et.core.batch import Example, Pair, Prompt, Run, padded, right_tokens
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import (
    Fill,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    positions_of,
    remainder_readouts,
)
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.cells import Batch, Measurement, batches, data_digest, measured, suffixes, whole_prompts
from nnsight_et.measuring.checks import means_check
from nnsight_et.measuring.how import How
from nnsight_et.measuring.self_check import Check, run_checks
from nnsight_et.measuring.work import Progress, Work
from nnsight_et.planning.plan import Job, ModelChoice

MEANS_SPLIT = "ablation"
Ablation = Literal["mean", "zero", "resample"]


@dataclass
class Trial:
    """The prompts circuits are measured on, one model, and what ablated heads output there.

    For resampling, each example's source is the prompt its ablated heads take their outputs from.
    """

    work: Work
    job: Job
    choice: ModelChoice
    examples: list[Example]
    prompts: list[Prompt]
    """Those that ablated heads' outputs come from."""
    ablation: Ablation
    _common: Fill | None = None

    @property
    def answers(self) -> Tensor:
        """[example, n]: the right tokens."""
        return right_tokens(self.examples)

    @property
    def chunks(self) -> Chunks:
        """The model's chunk sizes for these prompts."""
        return self.work.chunks(self.job, self.choice, max(len(example.base.tokens) for example in self.examples))

    @property
    def names(self) -> tuple[str, ...] | None:
        """None where means can be per absolute position: all prompts have one length; else the task's positions."""
        prompts = [*self.prompts, *(example.base for example in self.examples)]
        return None if len({len(prompt.tokens) for prompt in prompts}) == 1 else self.job.task.all_positions

    def what(self) -> list:
        """The part of a cell's name that says what ablated heads output."""
        mean = self.ablation == "mean"
        return [self.ablation, data_digest(self.prompts) if mean else None, self.names if mean else None]

    def fill(self, pair: Pair) -> Fill:
        """The fill of one batch. Means are taken and stored for the first; on a server, in each job that needs them."""
        if self.ablation == "zero":
            return Fill()
        if self.ablation == "resample":
            return Fill(resampled=pair.source)
        if self._common is None:
            far = self.work.server is not None
            self._common = (
                Fill(runs=self._runs(self._order()), names=self.names) if far else Fill(self._means(), self.names)
            )
        return self._common

    def checks(self) -> tuple[Check, ...]:
        """Of the means, where they are not checked when they are taken."""
        return self._means_check() if self.ablation == "mean" and self.work.server is not None else ()

    def _order(self) -> tuple[Batch, ...]:
        chunks = self.work.chunks(self.job, self.choice, max(len(prompt.tokens) for prompt in self.prompts))
        return tuple(batches([(0, len(prompt.tokens)) for prompt in self.prompts], chunks.examples))

    def _runs(self, order: Sequence[Batch]) -> tuple[Run, ...]:
        pad = self.work.pad(self.choice)
        return tuple(padded([self.prompts[i] for i in batch], pad) for batch in order)

    def _means(self) -> Tensor:
        """[layer, slot, head, d_head]: the model's means over the prompts, measured once and stored."""
        work, job, choice = self.work, self.job, self.choice
        key = work.key(job, choice, {"means": self.names, "data": data_digest(self.prompts)})
        cell = work.stored(key)
        if cell is None:
            (found,) = work.results(job, choice, [Call(mean_outputs, (self._runs(self._order()), self.names), key)])
            run_checks(work, job, choice, self._means_check())
            cell = work.kept(key, found)
        return cell["z"]

    def _means_check(self) -> tuple[Check, ...]:
        def together(some: Batch) -> Run:
            return self._runs([some])[0]

        return tuple(means_check(self.work, self.job, self.choice, self.prompts, self.names, together))


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
    return Trial(work, job, choice, examples, prompts, ablation)


def model_predictions(
    work: Work, job: Job, choice: ModelChoice, examples: Sequence[Example], name: str
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Readouts, by name, of the plain model: tensors [example]."""
    return (yield from measured(work, plain_model(work, job, choice, examples, name)))


def plain_model(work: Work, job: Job, choice: ModelChoice, examples: Sequence[Example], name: str) -> Measurement:
    """Of the plain model: readouts, by name, [example]."""
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))

    def measure(batch: Batch, how: How) -> Call:
        return Call(model_readouts, (work.pair(choice, examples, batch).question, how.engine))

    return Measurement(whole_prompts(job, choice, name, examples, chunks.examples), {"plain": True}, measure)


def circuits_alone(trial: Trial, circuits: Sequence[Circuit], name: str) -> Measurement:
    """Of each circuit alone: readouts, by name, [circuit, example]; their accuracy is F(C)."""
    chunks = trial.chunks

    def measure(batch: Batch, how: How) -> Call:
        pair = trial.work.pair(trial.choice, trial.examples, batch)
        return Call(circuit_readouts, (pair.question, trial.fill(pair), how.of(circuits), how.engine, chunks))

    step = whole_prompts(trial.job, trial.choice, name, trial.examples, chunks.examples)
    what = {"alone": [circuit.to_dict() for circuit in circuits], "ablation": trial.what()}
    return Measurement(step, what, measure, len(circuits), trial.checks())


def model_without(trial: Trial, knocked: Sequence[Circuit], name: str) -> Measurement:
    """Of the model without each set of heads: readouts, by name, [set, example]; their accuracy is F(M\\K)."""
    chunks = trial.chunks

    def measure(batch: Batch, how: How) -> Call:
        pair = trial.work.pair(trial.choice, trial.examples, batch)
        return Call(remainder_readouts, (pair.question, trial.fill(pair), how.of(knocked), how.engine, chunks))

    step = suffixes(trial.job, trial.choice, name, trial.examples, positions_of(knocked), chunks.examples)
    what = {"without": [heads.to_dict() for heads in knocked], "ablation": trial.what()}
    return Measurement(step, what, measure, len(knocked), trial.checks())
