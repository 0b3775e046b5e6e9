"""CMAP jobs (§6, Fig. 4): a donor's head activations in a recipient's runs, group by group and all together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.circuit import Circuit, HeadGroup, Via
from nnsight_et.core.errors import TaskError, UnsupportedModel, accepted_names
from nnsight_et.core.metrics import accuracy, is_right
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.display.measurement import no_rows
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import random_circuits
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.cmap import (
    by_place,
    donor_inputs,
    donor_outputs,
    recipient_input_readouts,
    recipient_readouts,
    with_heads,
)
from nnsight_et.manifest import CMAP
from nnsight_et.manifest.methods.cmap import MAIN_ROLES
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.checks import donation_check
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.predictions import answer_scores, plain_model
from nnsight_et.measuring.steps import Batch, EvalSettings, Measure, Measurement, Step, data_digest, suffixes
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.cmap import audit, present
from nnsight_et.methods.cmap.summary import CMAPSummary, PatchedRecipient, RandomHeads
from nnsight_et.methods.dcm.experiment import selected_heads
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.results.records import CircuitRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT = "evaluation"
INPUTS: tuple[tuple[Via, ...], ...] = (("query",), ("key",), ("value",), ("query", "key", "value"))


class Side(NamedTuple):
    """A model that gives or takes activations."""

    name: str
    shape: Shape
    tokenizer: PreTrainedTokenizerBase


def check_alike(where: str, donor: Side, recipient: Side) -> None:
    """Raise UnsupportedModel naming `where` unless the two have one shape and one tokenizer."""
    for name in ("n_layers", "n_heads", "n_kv_heads", "d_head"):
        sizes = [getattr(side.shape, name) for side in (donor, recipient)]
        if sizes[0] != sizes[1]:
            found = f"{name} {sizes[0]} in {donor.name} and {sizes[1]} in {recipient.name}"
            raise UnsupportedModel(f"{where}: {found}; accepted: donor and recipient of one shape")
    if donor.tokenizer.get_vocab() != recipient.tokenizer.get_vocab():
        found = f"the tokenizers of {donor.name} and {recipient.name} differ"
        raise UnsupportedModel(f"{where}: {found}; accepted: donor and recipient with one tokenizer")


def check(context: RunContext, job: Job[CMAP]) -> None:
    """Raise UnsupportedModel unless the two models have one shape and one tokenizer; TaskError if there is no data."""
    donor, recipient = job.models
    sides = [
        Side(choice.name, context.models.shape(choice), context.models.tokenizer(choice))
        for choice in (donor, recipient)
    ]
    check_alike(f"experiments.{job.name}", sides[0], sides[1])
    context.models.check_circuit(job, donor)
    context.data.examples(job, donor, SPLIT, 1)


def measure(context: RunContext, job: Job[CMAP]) -> Generator[Progress, None, MethodOutput[CMAPSummary]]:
    """Both models alone, the recipient with the donor's outputs, as many random heads' outputs, and with its inputs."""
    spec, (donor, recipient) = job.spec, job.models
    circuit = patched_heads(context, job)
    examples = context.data.examples(job, recipient, SPLIT, spec.examples)
    answers = right_tokens(examples)
    groups = [group for group in circuit.groups if group.heads]
    named = {group.name: Circuit((group,)) for group in groups} | {"all": Circuit(tuple(groups))}
    shape = context.models.check_circuit(job, recipient, circuit)
    controls = random_circuits(circuit, shape.n_layers, shape.n_heads, spec.random_sets, job.seed)
    sets = [*named.values(), *controls]
    plain = [plain_model(context, job, choice, examples, f"{choice.name} alone") for choice in job.models]
    given = _donations(context, job, sets, groups if spec.inputs else [], examples)
    yield from measure_cells(context, [plain[0], *given.values()])
    received = [_outputs(context, job, sets, given[""], examples)]
    received += [_inputs(context, job, group, given[group.name], examples) for group in (groups if spec.inputs else ())]
    yield from measure_cells(context, [plain[1], *received])
    alone = {choice.name: context.cells.values(one) for choice, one in zip(job.models, plain, strict=True)}
    outputs, *inputs_of = (context.cells.values(one) for one in received)
    scores = {f"output.{key}": tensor for key, tensor in outputs.items()} | answer_scores(answers)
    rows = list[PatchedRecipient]()
    for (name, heads), predicted in zip(named.items(), outputs["predicted"], strict=False):
        rows.append(_row("output", name, heads, predicted, answers))
    for group, found in zip(groups, inputs_of, strict=False):
        scores |= {f"{group.name}.input.{key}": tensor for key, tensor in found.items()}
        for inputs, predicted in zip(INPUTS, found["predicted"], strict=True):
            rows.append(_row("+".join(inputs), group.name, Circuit((group,)), predicted, answers))
    drawn = is_right(outputs["predicted"][len(named) :], answers).double()
    summary = CMAPSummary(
        donor=donor.name,
        recipient=recipient.name,
        models={name: accuracy(one["predicted"], answers) for name, one in alone.items()},
        model_intervals={name: accuracy_intervals(is_right(one["predicted"], answers)) for name, one in alone.items()},
        rows=rows,
        random=_mean_and_std(drawn),
        circuit=CircuitRecord.of(circuit),
    )
    return MethodOutput(scores, summary, data_digest(examples))


def patched_heads(context: RunContext, job: Job[CMAP]) -> Circuit:
    """The circuit's heads that are patched: of each group those with its main role, of groups without one all."""
    spec = job.spec
    circuit = context.earlier.circuit(job)
    names = [group.name for group in circuit.groups]
    for name in spec.main_role if spec.main_role != MAIN_ROLES else ():
        if name not in names:
            where = f"experiments.{job.name}.main_role"
            raise TaskError(f"{where}: the circuit has no group {name!a}; {accepted_names(name, names)}")
    if spec.roles is None:
        return circuit
    roles, groups = selected_heads(context, spec.roles), list[HeadGroup]()
    for group in circuit.groups:
        desideratum = spec.main_role.get(group.name)
        chosen = roles.heads(group, desideratum) if desideratum else group.heads
        groups.append(HeadGroup(group.name, group.at, tuple(head for head in group.heads if head in chosen)))
    return Circuit(tuple(groups))


def _donations(
    context: RunContext,
    job: Job,
    sets: Sequence[Circuit],
    groups: Sequence[HeadGroup],
    examples: Sequence[Example],
) -> dict[str, Measurement]:
    """All that the recipient will need of the donor: the outputs (""), and inputs by the group's name."""
    donor = job.models[0]

    def outputs(batch: Batch, settings: EvalSettings) -> Call:
        return Call(donor_outputs, (context.data.pair(donor, examples, batch).base, sets))

    step = _step(context, job, donor, "donor outputs", examples, context.earlier.circuit(job).positions)
    given = {"": _donation(context, step, {"out": _plain(sets)}, outputs, sets)}
    for group in groups:

        def inputs(batch: Batch, settings: EvalSettings, group: HeadGroup = group) -> Call:
            return Call(donor_inputs, (context.data.pair(donor, examples, batch).base, group))

        step = _step(context, job, donor, f"donor inputs of {group.name}", examples, [group.at])
        given[group.name] = _donation(context, step, {"out": _inputs_of(group)}, inputs, group)
    return given


def _donation(
    context: RunContext, step: Step, what: dict[str, Any], measure: Measure, given: Sequence[Circuit] | HeadGroup
) -> Measurement:
    measurement = Measurement(step, what, measure, sampled=False)
    keys = context.cells.keys(measurement)
    checks = donation_check(context, step, given, lambda batch: context.cells.read(keys[batch]))
    return replace(measurement, checks=tuple(checks))


def _outputs(
    context: RunContext, job: Job, sets: Sequence[Circuit], given: Measurement, examples: Sequence[Example]
) -> Measurement:
    """Of the recipient when each set's heads have the donor's outputs: readouts, by name, [set, example]."""
    donor, recipient = job.models
    keys = context.cells.keys(given)

    def receive(batch: Batch, settings: EvalSettings) -> Call:
        question = context.data.pair(recipient, examples, batch).question
        donated, chunks = with_heads(_read_donations(context, keys, batch), sets), _chunks(context, job, examples)
        return Call(recipient_readouts, (question, donated, settings.select(sets), settings.engine, chunks))

    step = _step(context, job, recipient, "recipient outputs", examples, context.earlier.circuit(job).positions)
    return Measurement(step, {"in": _plain(sets), "donor": context.cells.key(job, donor, {})}, receive, len(sets))


def _inputs(
    context: RunContext, job: Job, group: HeadGroup, given: Measurement, examples: Sequence[Example]
) -> Measurement:
    """Of the recipient when the group's heads have the donor's inputs: readouts, by name, [INPUTS, example]."""
    donor, recipient = job.models
    keys = context.cells.keys(given)

    def receive(batch: Batch, settings: EvalSettings) -> Call:
        question = context.data.pair(recipient, examples, batch).question
        before = int(question.run.positions[group.at][0])
        donated, chunks = (
            _without_padding(by_place(_read_donations(context, keys, batch)), before),
            _chunks(context, job, examples),
        )
        ways = settings.select(INPUTS)
        return Call(recipient_input_readouts, (question, (group, donated), ways, settings.engine, chunks))

    step = _step(context, job, recipient, f"recipient inputs of {group.name}", examples, [group.at])
    what = {"inputs": _inputs_of(group), "donor": context.cells.key(job, donor, {})}
    return Measurement(step, what, receive, len(INPUTS))


def _plain(sets: Sequence[Circuit]) -> list[Any]:
    return [heads.to_dict() for heads in sets]


def _inputs_of(group: HeadGroup) -> list[Any]:
    return [Circuit((group,)).to_dict(), INPUTS]


def _step(
    context: RunContext,
    job: Job,
    choice: ModelChoice,
    name: str,
    examples: Sequence[Example],
    positions: Sequence[str],
) -> Step:
    """A step in the same batches for donor and recipient."""
    return suffixes(job, choice, name, examples, positions, _chunks(context, job, examples).examples)


def _chunks(context: RunContext, job: Job, examples: Sequence[Example]) -> Chunks:
    """The recipient's chunk sizes; the donor has the same shape."""
    return context.chunk_sizes.of(job.models[1], examples)


def _read_donations(context: RunContext, keys: dict[Batch, str], batch: Batch) -> dict[str, Tensor]:
    """What the donor gave for the examples of `batch`, all of one cell: tensors [batch, ...] by "place layer"."""
    whole = next(other for other in keys if set(batch) <= set(other))
    rows = [whole.index(example) for example in batch]
    return {name: tensor[rows] for name, tensor in context.cells.read(keys[whole]).items()}


def _without_padding(donated: dict[Any, dict[int, Tensor]], before: int) -> dict[Any, dict[int, Tensor]]:
    """The donated inputs with keys and values of the `before` last tokens only: the batch may have had more padding."""
    cut = {via: {layer: tensor[:, -before:] for layer, tensor in donated[via].items()} for via in ("key", "value")}
    return donated | cut


def _mean_and_std(right: Tensor) -> RandomHeads | None:
    """Mean and standard deviation of the controls' accuracies, from right [set, example]; None if there are none."""
    if not len(right):
        return None
    accuracies, bounds = right.mean(-1), accuracy_intervals(right.mean(0))
    mean, std = accuracies.mean().item(), accuracies.std(correction=0).item()
    return RandomHeads(mean=mean, std=std, mean_interval=bounds)


def _row(inputs: str, name: str, heads: Circuit, predicted: Tensor, answers: Tensor) -> PatchedRecipient:
    right = is_right(predicted, answers).double()
    return PatchedRecipient(
        patched=inputs,
        group=name,
        heads=heads.size,
        accuracy=right.mean().item(),
        accuracy_interval=accuracy_intervals(right),
    )


EXPERIMENT = Experiment(
    check=check,
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
