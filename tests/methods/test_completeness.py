"""Completeness: circuit and model without the same heads, in both engines and by plain hooks, and the random halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_et.core.batch import padded_batch
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts, mean_outputs, remainder_readouts
from nnsight_et.methods.completeness.experiment import random_halves
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_hooks, plain_methods
from tests.helpers.methods_study import (
    MODELS,
    SEED,
    ablation_prompts,
    circuit,
    circuit_accuracy,
    model_accuracy,
    models_in,
    pairs,
    places,
    results,
)
from tests.helpers.tiny_model import PAD, few_pairs, hf_llama, tiny_model, tokenizer

ENGINES = ("default", "reference")
CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EMPTY = Circuit(tuple(HeadGroup(group.name, group.at, ()) for group in circuit().groups))
HALF = Circuit(
    (
        HeadGroup("value_fetcher", "last", (Head(1, 0), Head(2, 3))),
        HeadGroup("position_transmitter", "last", ()),
        HeadGroup("position_detector", "query_label", (Head(0, 1),)),
        HeadGroup("structure_reader", "previous_query_label", (Head(1, 3),)),
    )
)
SETS = [HALF, *(Circuit((group,)) for group in circuit().groups), EMPTY]


def means_of(model, boxes: int = 3) -> AblationValues:
    others = padded_batch(Boxes(boxes).prompts(tokenizer(), 5, 0, "ablation"), PAD)
    return AblationValues(mean_outputs(model, [others], None)["z"], None)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_circuit_and_model_without_each_set_agree_with_plain_hooks(kv_heads, engine):
    module, pair = hf_llama(kv_heads=kv_heads, dtype=torch.float64), few_pairs((3, 3, 3))
    model = tiny_model(module)
    fill, question = means_of(model), pair.question
    assert fill.means is not None
    less = [circuit().without(heads) for heads in SETS]
    in_circuit = circuit_readouts(model, question, fill, less, engine, Chunks())["probability"]
    in_model = remainder_readouts(model, question, fill, SETS, engine, Chunks())["probability"]
    for row, (rest, heads) in enumerate(zip(less, SETS, strict=True)):
        kept = plain_hooks.circuit_logits(module, pair.base, list(fill.means), places(rest))
        torch.testing.assert_close(in_circuit[row], plain_methods.probabilities(kept, pair.answer), **CLOSE)
        gone = plain_methods.without_logits(module, pair.base, list(fill.means), places(heads))
        torch.testing.assert_close(in_model[row], plain_methods.probabilities(gone, pair.answer), **CLOSE)
    assert (in_circuit[:-1] - in_circuit[-1]).abs().amax(-1).min() > 1e-7
    assert (in_model[:-1] - in_model[-1]).abs().amax(-1).min() > 1e-7


def test_without_any_head_fewer_circuit_and_model_are_themselves():
    model, pair = tiny_model(hf_llama()), few_pairs((3, 3, 3))
    fill, question = means_of(model), pair.question
    logits = plain_methods.plain_logits(model.nn._module, pair.base)
    plain = reference.reference_readout(logits, pair.answer).probability
    assert circuit().without(EMPTY) == circuit()
    exact = remainder_readouts(model, question, fill, [EMPTY], "reference", Chunks())
    assert torch.equal(exact["probability"][0], plain)
    assert torch.equal(exact["predicted"][0], logits.argmax(-1))
    fast = remainder_readouts(model, question, fill, [EMPTY, HALF], "default", Chunks())["probability"]
    assert (fast[0] - plain).abs().max() <= 1e-6
    assert (fast[1] / plain - 1).abs().max() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_circuit_removed_leaves_what_no_circuit_leaves(engine):
    """By hand: without all its heads the circuit is empty, and every head of every token takes its mean."""
    model, pair = tiny_model(hf_llama(dtype=torch.float64)), few_pairs((3, 3, 3))
    fill = means_of(model)
    assert fill.means is not None
    rest = circuit().without(circuit())
    assert rest == EMPTY
    found = circuit_readouts(model, pair.question, fill, [rest], engine, Chunks())["probability"][0]
    every = torch.ones(*pair.base.tokens.shape, 4, dtype=torch.bool)
    replaced = {layer: (every, means.expand(*every.shape, -1)) for layer, means in enumerate(fill.means)}
    logits = plain_hooks.replaced_logits(model.nn._module, pair.base, replaced)
    torch.testing.assert_close(found, plain_methods.probabilities(logits, pair.answer), **CLOSE)


def test_random_halves_take_each_head_with_probability_one_half():
    whole = circuit()
    halves = random_halves(whole, 2000, 1)
    for half in halves:
        assert [(group.name, group.at) for group in half.groups] == [(group.name, group.at) for group in whole.groups]
        for mine, all_heads in zip(half.groups, whole.groups, strict=True):
            assert [head for head in all_heads.heads if head in mine.heads] == list(mine.heads)  # in the group's order
    for number, group in enumerate(whole.groups):
        for head in group.heads:
            share = sum(head in half.groups[number].heads for half in halves) / 2000
            assert abs(share - 0.5) < 0.05
    both = sum({Head(2, 1), Head(1, 0)} <= set(half.groups[0].heads) for half in halves) / 2000
    assert abs(both - 0.25) < 0.04  # independently of each other
    assert all(half.size for half in halves)


def test_random_halves_are_decided_by_the_seed_and_more_draws_begin_with_the_same():
    whole = circuit()
    assert random_halves(whole, 20, 1) == random_halves(whole, 20, 1)
    assert random_halves(whole, 20, 1)[:7] == random_halves(whole, 7, 1)
    assert random_halves(whole, 20, 1) != random_halves(whole, 20, 2)
    assert len(set(random_halves(whole, 20, 1))) > 15


JOB = "  x: {method: completeness, model: one, circuit: ./circuit.json, examples: 23, ablation_examples: 6, draws: 5}\n"


def test_a_job_compares_circuit_and_model_without_random_halves_and_each_group(tmp_path):
    summary = results(models_in(tmp_path), JOB)["x"].header.summary
    module, pair = MODELS["one"](), pairs(23, "evaluation")
    means = plain_hooks.mean_head_outputs(module, ablation_prompts(6))
    sets = [*random_halves(circuit(), 5, SEED), *(Circuit((group,)) for group in circuit().groups)]
    names = [*(f"random {i}" for i in range(1, 6)), *(group.name for group in circuit().groups)]
    assert [row["removed"] for row in summary["rows"]] == names
    assert [row["heads"] for row in summary["rows"]] == [heads.size for heads in sets]
    for row, heads in zip(summary["rows"], sets, strict=True):
        assert row["circuit"] == pytest.approx(circuit_accuracy(module, pair, means, circuit().without(heads)))
        assert row["model"] == pytest.approx(model_accuracy(module, pair, means, heads))
        assert row["completeness"] == pytest.approx(abs(row["circuit"] - row["model"]))
    for key in ("circuit", "model", "completeness"):
        values = torch.tensor([row[key] for row in summary["rows"][:5]], dtype=torch.float64)
        expected = {"mean": values.mean().item(), "std": values.std(correction=0).item()}
        assert {name: summary["random"][key][name] for name in expected} == pytest.approx(expected)
    assert len({(row["circuit"], row["model"]) for row in summary["rows"]}) > 3


def test_without_random_halves_there_are_the_groups_and_no_mean(tmp_path):
    summary = results(models_in(tmp_path), JOB.replace("draws: 5", "draws: 0"))["x"].header.summary
    assert [row["removed"] for row in summary["rows"]] == [group.name for group in circuit().groups]
    assert summary["random"] == {}
