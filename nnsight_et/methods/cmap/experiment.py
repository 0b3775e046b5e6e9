"""CMAP jobs (§6, Fig. 4): a donor's head activations in a recipient's runs, group by group and all together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.circuit import Circuit, HeadGroup, Via
from nnsight_et.core.errors import TaskError, UnsupportedModel, accepted
from nnsight_et.core.metrics import accuracy, is_right
from nnsight_et.core.statistics import intervals
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
from nnsight_et.measuring.cells import Batch, Measurement, Step, data_digest, filled, suffixes
from nnsight_et.measuring.checks import donation_check
from nnsight_et.measuring.circuits import plain_model
from nnsight_et.measuring.correct import answer_scores
from nnsight_et.measuring.how import How, Measure
from nnsight_et.measuring.work import Outcome, Progress, Work
from nnsight_et.models.load import tokenizer_of
from nnsight_et.models.named import Shape
from nnsight_et.planning.plan import Job, ModelChoice

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


def check(work: Work, job: Job) -> None:
    """Raise UnsupportedModel unless the two models have one shape and one tokenizer; TaskError if there is no data."""
    donor, recipient = job.models
    sides = [Side(choice.name, work.shape(choice), tokenizer_of(work.files(choice))) for choice in (donor, recipient)]
    check_alike(f"experiments.{job.name}", sides[0], sides[1])
    work.check_circuit(job, donor)
    work.examples(job, donor, SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Both models alone, the recipient with the donor's outputs, as many random heads' outputs, and with its inputs."""
    spec, (donor, recipient) = job.spec, job.models
    assert isinstance(spec, CMAP)
    circuit = patched_heads(work, job)
    examples = work.examples(job, recipient, SPLIT, spec.examples)
    answers = right_tokens(examples)
    groups = [group for group in circuit.groups if group.heads]
    named = {group.name: Circuit((group,)) for group in groups} | {"all": Circuit(tuple(groups))}
    shape = work.check_circuit(job, recipient, circuit)
    controls = random_circuits(circuit, shape.n_layers, shape.n_heads, spec.random_sets, job.seed)
    sets = [*named.values(), *controls]
    plain = [plain_model(work, job, choice, examples, f"{choice.name} alone") for choice in job.models]
    given = _donations(work, job, sets, groups if spec.inputs else [], examples)
    yield from filled(work, [plain[0], *given.values()])
    received = [_outputs(work, job, sets, given[""], examples)]
    received += [_inputs(work, job, group, given[group.name], examples) for group in (groups if spec.inputs else ())]
    yield from filled(work, [plain[1], *received])
    alone = {choice.name: one.values(work) for choice, one in zip(job.models, plain, strict=True)}
    outputs, *inputs_of = (one.values(work) for one in received)
    scores = {f"output.{key}": tensor for key, tensor in outputs.items()} | answer_scores(answers)
    rows = []
    for (name, heads), predicted in zip(named.items(), outputs["predicted"], strict=False):
        rows.append(_row("output", name, heads, predicted, answers, job.seed))
    for group, found in zip(groups, inputs_of, strict=False):
        scores |= {f"{group.name}.input.{key}": tensor for key, tensor in found.items()}
        for inputs, predicted in zip(INPUTS, found["predicted"], strict=True):
            rows.append(_row("+".join(inputs), group.name, Circuit((group,)), predicted, answers, job.seed))
    drawn = is_right(outputs["predicted"][len(named) :], answers).double()
    summary = {"rows": rows, "random": _spread(drawn, job.seed), "circuit": circuit.to_dict()}
    summary |= {"donor": donor.name, "recipient": recipient.name} | _own(alone, answers, job.seed)
    return Outcome(scores, summary, data_digest(examples))


def _own(alone: dict[str, dict[str, Tensor]], answers: Tensor, seed: int) -> dict[str, Any]:
    """Both models' own accuracies and their intervals, by the model's name."""
    accuracies = {name: accuracy(found["predicted"], answers) for name, found in alone.items()}
    bounds = {name: intervals(is_right(found["predicted"], answers), seed) for name, found in alone.items()}
    return {"models": accuracies, "model_intervals": bounds}


def patched_heads(work: Work, job: Job) -> Circuit:
    """The circuit's heads that are patched: of each group those with its main role, of groups without one all."""
    spec = job.spec
    assert isinstance(spec, CMAP)
    circuit = work.circuit(job)
    names = [group.name for group in circuit.groups]
    for name in spec.main_role if spec.main_role != MAIN_ROLES else ():
        if name not in names:
            where = f"experiments.{job.name}.main_role"
            raise TaskError(f"{where}: the circuit has no group {name!a}; {accepted(name, names)}")
    if spec.roles is None:
        return circuit
    roles, groups = work.roles(spec.roles), []
    for group in circuit.groups:
        desideratum = spec.main_role.get(group.name)
        chosen = roles.heads(group, desideratum) if desideratum else group.heads
        groups.append(HeadGroup(group.name, group.at, tuple(head for head in group.heads if head in chosen)))
    return Circuit(tuple(groups))


def _donations(
    work: Work, job: Job, sets: Sequence[Circuit], groups: Sequence[HeadGroup], examples: Sequence[Example]
) -> dict[str, Measurement]:
    """All that the recipient will need of the donor: the outputs (""), and inputs by the group's name."""
    donor = job.models[0]

    def outputs(batch: Batch, how: How) -> Call:
        return Call(donor_outputs, (work.pair(donor, examples, batch).base, sets))

    step = _step(work, job, donor, "donor outputs", examples, work.circuit(job).positions)
    given = {"": _donation(work, step, {"out": _plain(sets)}, outputs, sets)}
    for group in groups:

        def inputs(batch: Batch, how: How, group: HeadGroup = group) -> Call:
            return Call(donor_inputs, (work.pair(donor, examples, batch).base, group))

        step = _step(work, job, donor, f"donor inputs of {group.name}", examples, [group.at])
        given[group.name] = _donation(work, step, {"out": _inputs_of(group)}, inputs, group)
    return given


def _donation(
    work: Work, step: Step, what: dict[str, Any], measure: Measure, given: Sequence[Circuit] | HeadGroup
) -> Measurement:
    measurement = Measurement(step, what, measure, sampled=False)
    keys = measurement.keys(work)
    checks = donation_check(work, step, given, lambda batch: work.cell(keys[batch]))
    return replace(measurement, checks=tuple(checks))


def _outputs(
    work: Work, job: Job, sets: Sequence[Circuit], given: Measurement, examples: Sequence[Example]
) -> Measurement:
    """Of the recipient when each set's heads have the donor's outputs: readouts, by name, [set, example]."""
    donor, recipient = job.models
    keys = given.keys(work)

    def receive(batch: Batch, how: How) -> Call:
        question = work.pair(recipient, examples, batch).question
        donated, chunks = with_heads(_given(work, keys, batch), sets), _chunks(work, job, examples)
        return Call(recipient_readouts, (question, donated, how.of(sets), how.engine, chunks))

    step = _step(work, job, recipient, "recipient outputs", examples, work.circuit(job).positions)
    return Measurement(step, {"in": _plain(sets), "donor": work.key(job, donor, {})}, receive, len(sets))


def _inputs(work: Work, job: Job, group: HeadGroup, given: Measurement, examples: Sequence[Example]) -> Measurement:
    """Of the recipient when the group's heads have the donor's inputs: readouts, by name, [INPUTS, example]."""
    donor, recipient = job.models
    keys = given.keys(work)

    def receive(batch: Batch, how: How) -> Call:
        question = work.pair(recipient, examples, batch).question
        before = int(question.run.positions[group.at][0])
        donated, chunks = _unpadded(by_place(_given(work, keys, batch)), before), _chunks(work, job, examples)
        return Call(recipient_input_readouts, (question, (group, donated), how.of(INPUTS), how.engine, chunks))

    step = _step(work, job, recipient, f"recipient inputs of {group.name}", examples, [group.at])
    what = {"inputs": _inputs_of(group), "donor": work.key(job, donor, {})}
    return Measurement(step, what, receive, len(INPUTS))


def _plain(sets: Sequence[Circuit]) -> list[Any]:
    return [heads.to_dict() for heads in sets]


def _inputs_of(group: HeadGroup) -> list[Any]:
    return [Circuit((group,)).to_dict(), INPUTS]


def _step(
    work: Work, job: Job, choice: ModelChoice, name: str, examples: Sequence[Example], positions: Sequence[str]
) -> Step:
    """A step in the same batches for donor and recipient."""
    return suffixes(job, choice, name, examples, positions, _chunks(work, job, examples).examples)


def _chunks(work: Work, job: Job, examples: Sequence[Example]) -> Chunks:
    """The recipient's chunk sizes; the donor has the same shape."""
    return work.chunks(job, job.models[1], max(len(example.base.tokens) for example in examples))


def _given(work: Work, keys: dict[Batch, str], batch: Batch) -> dict[str, Tensor]:
    """What the donor gave for the examples of `batch`, all of one cell: tensors [batch, ...] by "place layer"."""
    whole = next(other for other in keys if set(batch) <= set(other))
    rows = [whole.index(example) for example in batch]
    return {name: tensor[rows] for name, tensor in work.cell(keys[whole]).items()}


def _unpadded(donated: dict[Any, dict[int, Tensor]], before: int) -> dict[Any, dict[int, Tensor]]:
    """The donated inputs with keys and values of the `before` last tokens only: the batch may have had more padding."""
    cut = {via: {layer: tensor[:, -before:] for layer, tensor in donated[via].items()} for via in ("key", "value")}
    return donated | cut


def _spread(right: Tensor, seed: int) -> dict[str, Any] | None:
    """Mean and standard deviation of the controls' accuracies, from right [set, example]; None if there are none."""
    if not len(right):
        return None
    accuracies, of_mean = right.mean(-1), intervals(right.mean(0), seed)
    return {"mean": accuracies.mean().item(), "std": accuracies.std(correction=0).item(), "mean_interval": of_mean}


def _row(inputs: str, name: str, heads: Circuit, predicted: Tensor, answers: Tensor, seed: int) -> dict[str, Any]:
    right = is_right(predicted, answers).double()
    return {
        "patched": inputs,
        "group": name,
        "heads": heads.size,
        "accuracy": right.mean().item(),
        "accuracy_interval": intervals(right, seed),
    }
