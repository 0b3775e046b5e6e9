"""Circuits of one model: put together, evaluated alone, and patched from the source run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Literal

import torch
from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit, check_name, check_setting, whole_number
from nnsight_et.api.findings import SEED, Finding, accuracy_bars, answers_of, of_right
from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.batch import Example, padded
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import TaskError, brief, quantity
from nnsight_et.core.metrics import faithfulness, is_right
from nnsight_et.core.statistics import intervals, ratio_interval
from nnsight_et.interventions.ablation import (
    Fill,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    random_circuits,
)
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.measuring.predictions import answer_scores

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
    return Circuit.assembled(groups)


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
    examples = encoded(model, pairs, circuit)
    answers = answers_of(examples)
    sets = [circuit, *random_circuits(circuit, model.shape.n_layers, model.shape.n_heads, random, SEED)]
    fill = _means(model, pairs, examples) if ablation == "mean" else Fill()

    def alone(pair, chunks):
        return circuit_readouts(model.model, pair.question, fill, sets, model.engine, chunks)

    whole = model.measured(examples, (), lambda pair, _: model_readouts(model.model, pair.question, model.engine))
    found = model.measured(examples, (), alone)
    share = Share(model.name, circuit.size, *(is_right(one["predicted"], answers) for one in (found, whole)))
    scores = {f"model.{name}": tensor for name, tensor in whole.items()}
    scores |= {f"circuit.{name}": tensor for name, tensor in found.items()}
    return replace(share.finding(scores | answer_scores(answers)), notices=model.told(examples))


@dataclass(frozen=True)
class Share:
    """Which prompts the circuit alone and random circuits [circuit, example], and the model [example], answer right."""

    model: str
    heads: int
    circuits: Tensor
    whole: Tensor

    def finding(self, scores: dict[str, Tensor]) -> Finding:
        """The accuracies as rows; faithfulness and its interval as a score and in the note."""
        others = self.circuits[1:].double()
        rows: list[dict[str, Any]] = [
            {"of": "full model", **of_right(self.whole)},
            {"of": "circuit", **of_right(self.circuits[0])},
        ]
        if len(others):
            drawn = {"accuracy": others.mean().item(), "accuracy_interval": intervals(others.mean(0), SEED)}
            rows.append({"of": quantity(len(others), "random circuit"), **drawn})
        share = faithfulness(rows[1]["accuracy"], rows[0]["accuracy"])
        low, high = (bound.item() for bound in ratio_interval(self.circuits[0], self.whole, SEED))
        title = f"Circuit of {quantity(self.heads, 'head')} in {self.model}"
        tested = quantity(len(self.whole), "pair")
        note = f"Faithfulness, circuit / full model: {share:.3f} [{low:.3f}, {high:.3f}], on {tested}."
        figure = accuracy_bars("evaluation", title, rows, "of")
        return Finding(title, tuple(rows), (figure,), note, scores | {"faithfulness": torch.tensor([share, low, high])})


def activation_patch(model: LoadedModel, pairs: Pairs, circuit: AnyHeads) -> Finding:
    """How often the pairs' answer is given when heads take their outputs from the source run (§5.2).

    circuit: a circuit, a group, or a list of heads, which are at the last token. Each group alone, all together, and
    nothing patched. Nothing is frozen; each run has its own positions.
    """
    check_setting(model, pairs)
    circuit = as_circuit(circuit)
    examples = encoded(model, pairs, circuit)
    answers = answers_of(examples)
    groups = [group for group in circuit.groups if group.heads]
    sets = {"nothing": Circuit(())} | {group.name: Circuit((group,)) for group in groups}
    if len(groups) > 1:
        sets["all"] = Circuit(tuple(groups))

    def measure(pair, chunks):
        return patched_readouts(model.model, pair, list(sets.values()), model.engine, chunks)

    found = model.measured(examples, circuit.positions, measure)
    patched = of_sets(f"Activation patching in {model.name}", sets, found, answers)
    return replace(patched, notices=model.notices)


def of_sets(title: str, sets: dict[str, Circuit], found: dict[str, Tensor], answers: Tensor) -> Finding:
    """A row per set of heads: how many there are, how often the answer is given, and its mean probability."""
    rows = tuple(
        {"patched": name, "heads": heads.size, **of_right(right), "probability": probability.double().mean().item()}
        for (name, heads), right, probability in zip(
            sets.items(), is_right(found["predicted"], answers), found["probability"], strict=True
        )
    )
    note = f"Accuracy: how often the pairs' answer is given; on {quantity(len(answers), 'pair')}."
    figure = accuracy_bars("patched", title, rows, "patched")
    return Finding(title, rows, (figure,), note, found | answer_scores(answers))


def encoded(model: LoadedModel, pairs: Pairs, circuit: Circuit) -> list[Example]:
    """The pairs for the model's tokenizer; TaskError if the circuit has no heads, or does not fit model or prompts."""
    if not circuit.size:
        raise TaskError("circuit: it has no heads; accepted: one that has some")
    circuit.check_fits(model.shape.n_layers, model.shape.n_heads, f"circuit: {model.name}")
    for position in circuit.positions:
        pairs.check_position(position, "circuit")
    examples = model.fitting(pairs.examples(model.tokenizer))
    for index, (one, other) in product(range(len(examples)), combinations(circuit.positions, 2)):
        if examples[index].base.positions[one] == examples[index].base.positions[other]:
            found = f"pairs[{index}]: {one!r} and {other!r} are one token of the base"
            raise TaskError(f"{found}; accepted: a circuit whose positions are different tokens")
    return examples


def _means(model: LoadedModel, pairs: Pairs, examples: Sequence[Example]) -> Fill:
    prompts = [example.source for example in examples]
    lengths = {len(prompt.tokens) for example in examples for prompt in (example.base, example.source)}
    names = None if len(lengths) == 1 else pairs.positions
    runs = [
        padded(prompts[first : first + 50], model.pad).to(model.model.device) for first in range(0, len(prompts), 50)
    ]
    return Fill(mean_outputs(model.model, runs, names)["z"], names)
