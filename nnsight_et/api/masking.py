"""Desiderata-based component masking (§5.1, App. H): which heads of a circuit carry one variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf

import torch

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_setting
from nnsight_et.api.circuits import encoded
from nnsight_et.api.findings import Finding, accuracy_bars, answers_of, of_right
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import Example, Pair, collate
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.metrics import is_right
from nnsight_et.engine.budget import chunks
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.measuring.predictions import answer_scores

BATCH = 32  # App. H


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
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < inf:
        raise TaskError(f"sparsity: {sparsity!r}; accepted: a number, 0 or more")
    circuit = as_circuit(circuit)
    if model.engine != "default":
        raise TaskError(f"engine: {model.engine} trains no masks; accepted: default")
    _check_enough(len(train))
    groups = [group for group in circuit.groups if group.heads]
    sets = [_batches(model, encoded(model, pairs, circuit)) for pairs in (train, validation)]
    width = max(batch.base.tokens.shape[1] for batches in sets for batch in batches)
    size = chunks(model.shape, model.model.dtype.itemsize, width, model.memory)
    masks = trained_masks(model.model, groups, Training(sparsity=sparsity), sets[0], sets[1], size)
    chosen = [_selected(group, found["mask"]) for group, found in zip(groups, masks, strict=True)]
    return _tested(model, groups, chosen, encoded(model, test, circuit))


def _check_enough(pairs: int) -> None:
    """Raise TaskError if no mask can get from 1 to 0.5, where a head is selected, in as many steps of Adam."""
    training = Training()
    least = BATCH * (ceil(0.5 / (training.learning_rate * training.epochs)) - 1) + 1
    if pairs < least:
        steps = training.epochs * ceil(pairs / BATCH)
        found = f"{quantity(pairs, 'pair')}, so {quantity(steps, 'step')} of at most {training.learning_rate}"
        found = f"{found}, too few for a mask to reach 0.5"
        raise TaskError(f"train: {found}; accepted: {least} pairs or more (the paper has 1000)")


def _tested(
    model: LoadedModel, groups: Sequence[HeadGroup], chosen: Sequence[HeadGroup], examples: Sequence[Example]
) -> Selection:
    sets = [*(Circuit((group,)) for group in chosen), Circuit(())]
    answers = answers_of(examples)
    found = model.measured(
        examples,
        [group.at for group in groups],
        lambda pair, size: patched_readouts(model.model, pair, sets, model.engine, size),
    )
    right = is_right(found["predicted"], answers)
    nothing = of_right(right[-1])["accuracy"]
    rows = tuple(
        {
            "group": group.name,
            "heads": len(group.heads),
            "selected": [str(head) for head in some.heads],
            **of_right(one),
        }
        | {"do_nothing": nothing}
        for group, some, one in zip(groups, chosen, right, strict=False)
    )
    title = f"Heads selected by DCM in {model.name}"
    figure = accuracy_bars("dcm", title, rows, "group", [{"group": "nothing patched", "accuracy": nothing}])
    tested = quantity(len(examples), "pair")
    note = f"Accuracy: how often patching the selected heads gives the answer, on the {tested} of `test`."
    selected, scores = Circuit(tuple(chosen)), found | answer_scores(answers)
    return Selection(title, rows, (figure,), note, scores, model.notices, circuit=selected)


def _selected(group: HeadGroup, mask: torch.Tensor) -> HeadGroup:
    heads = tuple(head for head, keep in zip(group.heads, mask.tolist(), strict=True) if keep == 0)
    return HeadGroup(group.name, group.at, heads)


def _batches(model: LoadedModel, examples: Sequence[Example]) -> list[Pair]:
    parts = [examples[first : first + BATCH] for first in range(0, len(examples), BATCH)]
    return [collate(part, model.pad).to(model.model.device) for part in parts]
