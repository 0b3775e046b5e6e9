"""Circuits of one model: put together, evaluated alone, and patched from the source run."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from math import nan
from typing import Literal

import torch
from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_name, check_setting, whole_number
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, accuracy_bars, accuracy_with_interval, answers_of, unprefixed
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import TaskError, brief, quantity
from nnsight_et.core.metrics import is_right
from nnsight_et.manifest import ActivationPatching, Faithfulness
from nnsight_et.measuring.predictions import answer_scores
from nnsight_et.methods.dcm.experiment import patching_measurement

ABLATIONS = ("mean", "zero")


def circuit_of(*groups: HeadGroup) -> Circuit:
    """The groups as a circuit; a head that a later group has at the same position leaves the earlier one (§4.1)."""
    if not groups:
        raise TaskError("groups: there is none; accepted: one or more, such as scores.group('mine')")
    for group in groups:
        if not isinstance(group, HeadGroup):
            accept = "groups, each an argument: circuit_of(scores.group('one'), HeadGroup('two', 'last', ['L9H3']))"
            raise TaskError(f"groups: {brief(group)}; accepted: {accept}")
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise TaskError(f"groups: two have the same name among {', '.join(names)}; accepted: names of their own")
    return Circuit.from_stages(groups)


def evaluate(
    model: LoadedModel,
    pairs: Pairs,
    circuit: AnyHeads,
    ablation: Literal["mean", "zero"] = "mean",
    random: int = 10,
) -> Finding:
    """Accuracy of the model, of the circuit alone, of `random` circuits of its size, and faithfulness (§4.2, §4.3).

    circuit: a circuit, a group, or a list of heads, which are at the last token. Alone: at its positions all other
    heads, elsewhere all heads take their mean over the source prompts, or zero. Means are per absolute position where
    all prompts have one length; else per named position, with one more for all other tokens.
    """
    check_setting(model, pairs)
    check_name(ablation, "ablation", ABLATIONS)
    random, circuit = whole_number(random, "random"), as_circuit(circuit)
    examples = encode_pairs(model, pairs, circuit)
    spec = Faithfulness(
        method="faithfulness",
        circuit="circuit",
        models=(model.name,),
        examples=len(examples),
        ablation=ablation,
        ablation_examples=len(examples),
        random_circuits=random,
    )
    with experimenting("evaluate", spec, [model], {"": examples}, circuits={"circuit": circuit}) as run:
        result = run.result(model.collect_notices(examples))
    (row,) = result.header.summary["rows"]
    rows = [
        {"of": "full model", "accuracy": row["full"], "accuracy_interval": row["full_interval"]},
        {
            "of": "circuit",
            "accuracy": row["circuit"],
            "accuracy_interval": row["circuit_interval"],
            "p": row["random_p"],
        },
    ]
    if random:
        drawn = {"accuracy": row["random_mean"], "accuracy_interval": row["random_interval"]}
        rows.append({"of": quantity(random, "random circuit"), **drawn})
    share = [nan if one is None else one for one in (row["faithfulness"], *row["faithfulness_interval"])]
    title = f"Circuit of {quantity(circuit.size, 'head')} in {model.name}"
    note = f"Faithfulness, circuit / full model: {share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}], on "
    note += f"{quantity(len(examples), 'pair')}."
    if random:
        note += " p: how likely a random circuit is at least as accurate."
    scores = unprefixed(result.scores, f"{model.name}.") | {"faithfulness": torch.tensor(share)}
    figure = accuracy_bars("evaluation", title, rows, "of")
    return Finding(
        title, tuple(rows), (figure,), note, scores, result.header.notices, result.header.self_check.to_dict()
    )


def activation_patch(model: LoadedModel, pairs: Pairs, circuit: AnyHeads) -> Finding:
    """How often the pairs' answer is given when heads take their outputs from the source run (§5.2).

    circuit: a circuit, a group, or a list of heads, which are at the last token. Each group alone, all together, and
    nothing patched. Nothing is frozen; each run has its own positions.
    """
    check_setting(model, pairs)
    circuit = as_circuit(circuit)
    examples = encode_pairs(model, pairs, circuit)
    answers = answers_of(examples)
    groups = [group for group in circuit.groups if group.heads]
    sets = {group.name: Circuit((group,)) for group in groups}
    if len(groups) > 1:
        sets["all"] = Circuit(tuple(groups))
    spec = ActivationPatching(
        method="activation_patching", roles="circuit", models=(model.name,), examples=len(examples)
    )
    with experimenting("activation_patch", spec, [model], {"": examples}) as run:
        every, drawn = {"": list(sets.values())}, {"": examples}
        found = run.values(patching_measurement(run.context, run.job, run.job.models[0], every, drawn, "patched"))
    first = {name: tensor.roll(1, 0) for name, tensor in found.items()}  # nothing patched, which it has last
    shown = of_sets(f"Activation patching in {model.name}", {"nothing": Circuit(())} | sets, first, answers)
    return replace(shown, notices=model.notices, self_check=run.self_check)


def of_sets(title: str, sets: dict[str, Circuit], found: dict[str, Tensor], answers: Tensor) -> Finding:
    """A row per set of heads: how many there are, how often the answer is given, and its mean probability."""
    rows = tuple(
        {
            "patched": name,
            "heads": heads.size,
            **accuracy_with_interval(right),
            "probability": probability.double().mean().item(),
        }
        for (name, heads), right, probability in zip(
            sets.items(), is_right(found["predicted"], answers), found["probability"], strict=True
        )
    )
    note = f"Accuracy: how often the pairs' answer is given; on {quantity(len(answers), 'pair')}."
    figure = accuracy_bars("patched", title, rows, "patched")
    return Finding(title, rows, (figure,), note, found | answer_scores(answers))


def encode_pairs(model: LoadedModel, pairs: Pairs, circuit: Circuit) -> list[Example]:
    """The pairs for the model's tokenizer; TaskError if the circuit has no heads, or does not fit model or prompts."""
    if not circuit.size:
        raise TaskError("circuit: it has no heads; accepted: one that has some")
    circuit.check_fits(model.shape.n_layers, model.shape.n_heads, f"circuit: {model.name}")
    for position in circuit.positions:
        pairs.check_position(position, "circuit")
    examples = model.require_pairs_fit(pairs.examples(model.tokenizer))
    for index, (one, other) in product(range(len(examples)), combinations(circuit.positions, 2)):
        if examples[index].base.positions[one] == examples[index].base.positions[other]:
            found = f"pairs[{index}]: {one!r} and {other!r} are one token of the base"
            raise TaskError(f"{found}; accepted: a circuit whose positions are different tokens")
    return examples
