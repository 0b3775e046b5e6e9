"""Desiderata-based component masking (§5.1, App. H): which heads of a circuit carry one variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_setting
from nnsight_et.api.circuits import encode_pairs
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, accuracy_bars
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import right_tokens
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.manifest import DCM
from nnsight_et.measuring.predictions import answer_scores
from nnsight_et.methods.dcm.experiment import TEST, TRAIN, VALIDATION, patching_measurement
from nnsight_et.methods.dcm.present import LIMITS
from nnsight_et.methods.dcm.summary import DCMSummary, GroupMask
from nnsight_et.results.store import Result
from nnsight_et.results.summary import Reason


@dataclass(frozen=True, repr=False)
class Selection(Finding):
    """What `et.dcm` and `et.minimality` return: the heads selected from each group, and the numbers behind them."""

    circuit: Circuit = field(default_factory=lambda: Circuit(()))
    """The selected heads."""
    why: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict[str, tuple[Reason, ...]])
    """Group -> why its selection is empty, useless or a close call; groups without a reason are left out."""


def dcm(
    model: LoadedModel, circuit: AnyHeads, train: Pairs, validation: Pairs, test: Pairs, sparsity: float = 0.01
) -> Selection:
    """Find which heads of a circuit carry one variable: desiderata-based component masking (§5.1, App. H).

    The pairs' answer is what swapping the variable should give, as in `et.Pairs.desideratum("object", 320)`. One mask
    per group is trained on `train` (Adam, 2 epochs, batches of 32). The mask that does best on `validation` selects
    heads, whose outputs are then taken from the source run in `test`.

    Args:
        model: What `et.load` returns, with the default engine. Gradients come from autograd.
        circuit: A circuit, scores (their kept heads), a group, or a list of heads at the last token.
        train: Pairs to train masks on; enough for a mask to select a head, about 300.
        validation: Pairs to choose the best mask on.
        test: Other pairs, to measure the accuracy on.
        sparsity: What each selected head adds to the loss, from 0 to 1e6.

    Returns:
        A Selection. `.circuit`: the selected heads. `.why`: group -> why its selection is empty or useless. `.rows`:
        one per group, with "accuracy" (the share of prompts with the pairs' answer) and its 95% interval, and the
        same with all heads and with none. `.scores`: "predicted", "probability" and "logit" [group + 1, example],
        nothing patched last.

    Raises:
        TaskError: An argument has the wrong type or value, or the pairs are too few to select a head.
        ExperimentError: A self-check failed.

    Examples:
        >>> import nnsight_et as et
        >>> splits = {"discovery": 320, "pruning": 8, "evaluation": 8}
        >>> parts = [et.Pairs.desideratum("object", count, split=split) for split, count in splits.items()]
        >>> found = et.dcm(et.load("llama-tiny", device="cpu"), ["L5H0", "L0H1"], *parts)
        >>> found.circuit.groups[0].heads
        (L5H0,)
    """
    for pairs, where in ((train, "train"), (validation, "validation"), (test, "test")):
        check_setting(model, pairs, where)
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity <= 1e6:
        raise TaskError(f"sparsity: {sparsity!r}; accepted: a number from 0 to 1e6")
    circuit = as_circuit(circuit)
    if model.engine != "default":
        raise TaskError(f"engine: {model.engine} cannot train masks; accepted: default")
    spec = DCM(
        method="dcm",
        circuit="circuit",
        desiderata=("object",),
        training_examples=len(train),
        validation_examples=len(validation),
        test_examples=len(test),
        sparsity=float(sparsity),
    )
    _check_enough(spec)
    parts = {TRAIN: train, VALIDATION: validation, TEST: test}
    examples = {split: encode_pairs(model, pairs, circuit) for split, pairs in parts.items()}
    with experimenting("dcm", spec, [model], examples, circuits={"circuit": circuit}) as run:
        result = run.result(model.notices)
        groups, rows = [group for group in circuit.groups if group.heads], DCMSummary.read(result.header).rows
        chosen = [_selected_heads(group, row) for group, row in zip(groups, rows, strict=True)]
        sets, drawn = {"object": [Circuit((group,)) for group in chosen]}, {"object": examples[TEST]}
        found = run.values(patching_measurement(run.context, run.job, run.job.models[0], sets, drawn, "test"))
    return _selection(model, result, chosen, found | answer_scores(right_tokens(examples[TEST])), len(test))


def _selection(
    model: LoadedModel, result: Result, chosen: Sequence[HeadGroup], scores: Mapping[str, Tensor], tested: int
) -> Selection:
    """What a result of dcm says, and what the selected heads do on the tested pairs."""
    keys = ("group", "heads", "selected", "accuracy", "accuracy_interval", "do_nothing")
    keys += ("floor", "validated", "ceiling", "ceiling_interval")
    rows = tuple({key: row[key] for key in keys} for row in result.header.summary["rows"])
    title = f"Heads selected by DCM in {model.name}"
    nothing = {"group": "nothing patched", "accuracy": rows[0]["do_nothing"]}
    figure = accuracy_bars("dcm", title, rows, "group", [nothing])
    pairs = quantity(tested, "pair")
    note = (
        f"Accuracy: the share of the {pairs} of `test` that get their answer with the selected heads patched. {LIMITS}"
    )
    masks = DCMSummary.read(result.header).rows
    note += "".join(f" {mask.group}: {reason.text}" for mask in masks for reason in mask.why)
    why, checks = {mask.group: tuple(mask.why) for mask in masks if mask.why}, result.header.self_check.to_dict()
    heads = Circuit(tuple(chosen))
    return Selection(title, rows, (figure,), note, scores, model.notices, checks, circuit=heads, why=why)


def _selected_heads(group: HeadGroup, row: GroupMask) -> HeadGroup:
    return HeadGroup(group.name, group.at, tuple(map(Head.parse, row.selected)))


def _check_enough(spec: DCM) -> None:
    """Raise TaskError if no mask can get from 1 to 0.5, where a head is selected, in as many steps of Adam."""
    if spec.training_examples < spec.least_training:
        steps = quantity(spec.epochs * ceil(spec.training_examples / spec.batch), "step")
        found = f"{quantity(spec.training_examples, 'pair')}, so {steps} of at most {spec.learning_rate}"
        found = f"{found}, too few for a mask to reach 0.5"
        raise TaskError(f"train: {found}; accepted: {spec.least_training} pairs or more (the paper has 1000)")
