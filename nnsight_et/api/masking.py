"""Desiderata-based component masking (§5.1, App. H): which heads of a circuit carry one variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_setting
from nnsight_et.api.circuits import encode_pairs
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, accuracy_bars, answers_of
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.manifest import DCM
from nnsight_et.measuring.predictions import answer_scores
from nnsight_et.methods.dcm.experiment import TEST, TRAIN, VALIDATION, patching_measurement


@dataclass(frozen=True, repr=False)
class Selection(Finding):
    """Which heads of each group DCM selected, and what patching them does on pairs that had no say."""

    circuit: Circuit = field(default_factory=lambda: Circuit(()))
    """The selected heads."""


def dcm(
    model: LoadedModel, circuit: AnyHeads, train: Pairs, validation: Pairs, test: Pairs, sparsity: float = 0.01
) -> Selection:
    """Per group of the circuit the heads whose outputs, taken from the source run, give the pairs' answer.

    circuit: a circuit, a group, or a list of heads, which are at the last token. A mask per group is trained on
    `train` as in App. H (Adam, 2 epochs, batches of 32), the best of it chosen on
    `validation`, its heads patched in `test`. Gradients are autograd's.
    """
    for pairs, where in ((train, "train"), (validation, "validation"), (test, "test")):
        check_setting(model, pairs, where)
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity <= 1e6:
        raise TaskError(f"sparsity: {sparsity!r}; accepted: a number, 0 or more, at most 1e6")
    circuit = as_circuit(circuit)
    if model.engine != "default":
        raise TaskError(f"engine: {model.engine} trains no masks; accepted: default")
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
        groups = [group for group in circuit.groups if group.heads]
        chosen = [_selected_heads(group, row) for group, row in zip(groups, result.header.summary["rows"], strict=True)]
        sets, drawn = {"object": [Circuit((group,)) for group in chosen]}, {"object": examples[TEST]}
        found = run.values(patching_measurement(run.context, run.job, run.job.models[0], sets, drawn, "test"))
    keys = ("group", "heads", "selected", "accuracy", "accuracy_interval", "do_nothing")
    rows = tuple({key: row[key] for key in keys} for row in result.header.summary["rows"])
    title = f"Heads selected by DCM in {model.name}"
    nothing = {"group": "nothing patched", "accuracy": rows[0]["do_nothing"]}
    figure = accuracy_bars("dcm", title, rows, "group", [nothing])
    tested = quantity(len(test), "pair")
    note = f"Accuracy: how often patching the selected heads gives the answer, on the {tested} of `test`."
    scores, checks = found | answer_scores(answers_of(examples[TEST])), result.header.self_check.to_dict()
    return Selection(title, rows, (figure,), note, scores, model.notices, checks, circuit=Circuit(tuple(chosen)))


def _selected_heads(group: HeadGroup, row: Mapping[str, Any]) -> HeadGroup:
    return HeadGroup(group.name, group.at, tuple(map(Head.parse, row["selected"])))


def _check_enough(spec: DCM) -> None:
    """Raise TaskError if no mask can get from 1 to 0.5, where a head is selected, in as many steps of Adam."""
    if spec.training_examples < spec.least_training:
        steps = quantity(spec.epochs * ceil(spec.training_examples / spec.batch), "step")
        found = f"{quantity(spec.training_examples, 'pair')}, so {steps} of at most {spec.learning_rate}"
        found = f"{found}, too few for a mask to reach 0.5"
        raise TaskError(f"train: {found}; accepted: {spec.least_training} pairs or more (the paper has 1000)")
