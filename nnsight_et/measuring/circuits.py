"""What the jobs that measure circuits share: their prompts, what ablated heads output, readouts of circuits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from torch import Tensor

from nnsight_et.core.batch import Example, Pair, Prompt, PromptBatch, padded_batch, right_tokens
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import (
    AblationValues,
    circuit_readouts,
    mean_outputs,
    positions_of,
    remainder_readouts,
)
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.checks import check_cell, means_check, run_checks
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.evidence import same_prompts
from nnsight_et.measuring.own_pairs import splits
from nnsight_et.measuring.self_check import Check
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, batches, data_digest, suffixes, whole_prompts
from nnsight_et.planning.plan import Job, ModelChoice

MEANS_SPLIT = "ablation"
Ablation = Literal["mean", "zero", "resample"]


@dataclass
class AblationSetup:
    """The prompts circuits are measured on, one model, and what ablated heads output there.

    For resampling, each example's source is the prompt its ablated heads take their outputs from.
    """

    context: RunContext
    job: Job
    choice: ModelChoice
    examples: list[Example]
    prompts: list[Prompt]
    """Those that ablated heads' outputs come from."""
    ablation: Ablation
    _common: AblationValues | None = None

    @property
    def answers(self) -> Tensor:
        """[example, n]: the right tokens."""
        return right_tokens(self.examples)

    @property
    def chunks(self) -> Chunks:
        """The model's chunk sizes for these prompts."""
        return self.context.chunk_sizes.of(self.choice, self.examples)

    @property
    def names(self) -> tuple[str, ...] | None:
        """None where means can be per absolute position: all prompts have one length; else the task's positions."""
        prompts = [*self.prompts, *(example.base for example in self.examples)]
        return None if len({len(prompt.tokens) for prompt in prompts}) == 1 else self.job.task.all_positions

    def cache_key(self) -> list:
        """The part of a cell's name that says what ablated heads output."""
        mean = self.ablation == "mean"
        return [self.ablation, data_digest(self.prompts) if mean else None, self.names if mean else None]

    def fill(self, pair: Pair) -> AblationValues:
        """The fill of one batch. Means are taken and stored for the first; on a server, in each job that needs them."""
        if self.ablation == "zero":
            return AblationValues()
        if self.ablation == "resample":
            return AblationValues(resampled=pair.source)
        if self._common is None:
            if self.context.models.on_server:
                self._common = AblationValues(runs=self._runs(self._order()), names=self.names)
            else:
                self._common = AblationValues(self._means(), self.names)
        return self._common

    def checks(self) -> tuple[Check, ...]:
        """Of the means, where they are not checked when they are taken."""
        return self._means_check() if self.ablation == "mean" and self.context.models.on_server else ()

    def _order(self) -> tuple[Batch, ...]:
        chunks = self.context.chunk_sizes.of(self.choice, self.prompts)
        return tuple(batches([(0, len(prompt.tokens)) for prompt in self.prompts], chunks.examples))

    def _runs(self, order: Sequence[Batch]) -> tuple[PromptBatch, ...]:
        pad = self.context.models.pad(self.choice)
        return tuple(padded_batch([self.prompts[i] for i in batch], pad) for batch in order)

    def _means(self) -> Tensor:
        """[layer, slot, head, d_head]: the model's means over the prompts, measured once and stored."""
        context, job, choice = self.context, self.job, self.choice
        key = context.cells.key(job, choice, {"means": self.names, "data": data_digest(self.prompts)})
        cell, asked = context.cells.find(key), Call(mean_outputs, (self.prompts, self.names))
        check_cell(context, job, "means", key, asked, cell is not None)
        if cell is None:
            call = Call(mean_outputs, (self._runs(self._order()), self.names), key)
            (found,) = context.executor.results(job, choice, [call])
            run_checks(context, job, choice, self._means_check())
            cell = context.cells.keep(key, found)
        return cell["z"]

    def _means_check(self) -> tuple[Check, ...]:
        def joined_run(some: Batch) -> PromptBatch:
            return self._runs([some])[0]

        def verify(_: list[object]) -> None:
            order = self._order()
            runs = zip(self._runs(order), order, strict=True)
            right = all(same_prompts(run, [self.prompts[index] for index in batch]) for run, batch in runs)
            every = sorted(index for batch in order for index in batch) == list(range(len(self.prompts)))
            self.context.self_check.add(self.job, "means", 0.0 if right and every else inf, 0.0)

        some = means_check(self.context, self.job, self.choice, self.prompts, self.names, joined_run)
        return (*some, Check((), verify)) if some else ()


def check_data_and_circuit(context: RunContext, job: Job) -> None:
    """Raise TaskError if the job's data cannot be made, or a circuit from a file does not fit a model."""
    _, split = next(splits(job))
    for choice in job.models:
        context.models.check_circuit(job, choice)
        context.data.examples(job, choice, split, 1)


def set_up_ablation(
    context: RunContext,
    job: Job,
    choice: ModelChoice,
    examples: list[Example],
    ablation: Ablation,
    ablation_examples: int,
) -> AblationSetup:
    """The set-up of a job on one model; TaskError if resampling finds prompts of another length."""
    prompts = context.data.prompts(job, choice, MEANS_SPLIT, ablation_examples)
    if ablation == "resample":
        examples = [replace(one, source=prompts[i % len(prompts)]) for i, one in enumerate(examples)]
        if any(len(one.base.tokens) != len(one.source.tokens) for one in examples):
            raise TaskError(
                f"experiments.{job.name}.ablation: resample needs prompts of one length; accepted: mean, zero"
            )
    context.ablating[job.name, choice.name] = prompts
    return AblationSetup(context, job, choice, examples, prompts, ablation)


def circuits_alone(setup: AblationSetup, circuits: Sequence[Circuit], name: str) -> Measurement:
    """Of each circuit alone: readouts, by name, [circuit, example]; their accuracy is F(C)."""
    chunks = setup.chunks

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pair = setup.context.data.pair(setup.choice, setup.examples, batch)
        some = settings.select(circuits)
        return Call(circuit_readouts, (pair.question, setup.fill(pair), some, settings.engine, chunks))

    step = whole_prompts(setup.job, setup.choice, name, setup.examples, chunks.examples)
    cache_key = {"alone": [circuit.to_dict() for circuit in circuits], "ablation": setup.cache_key()}
    return Measurement(step, cache_key, measure, len(circuits), setup.checks())


def model_without(setup: AblationSetup, knocked: Sequence[Circuit], name: str) -> Measurement:
    """Of the model without each set of heads: readouts, by name, [set, example]; their accuracy is F(M\\K)."""
    chunks = setup.chunks

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pair = setup.context.data.pair(setup.choice, setup.examples, batch)
        some = settings.select(knocked)
        return Call(remainder_readouts, (pair.question, setup.fill(pair), some, settings.engine, chunks))

    step = suffixes(setup.job, setup.choice, name, setup.examples, positions_of(knocked), chunks.examples)
    cache_key = {"without": [heads.to_dict() for heads in knocked], "ablation": setup.cache_key()}
    return Measurement(step, cache_key, measure, len(knocked), setup.checks())
