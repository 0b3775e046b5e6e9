"""Ablation: means, circuits alone and models without them in both engines and by plain hooks, and random circuits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_et.core.batch import Pair, Prompt, PromptBatch, Question, Side, padded_batch
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import (
    AblationValues,
    circuit_readouts,
    mean_outputs,
    model_readouts,
    random_circuits,
    remainder_readouts,
    slots,
)
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.tiny_model import PAD, few_pairs, hf_llama, tiny_model, tokenizer

CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
NAMES = ("previous_query_label", "query_label", "last")
CIRCUIT = Circuit(
    (
        HeadGroup("a", "last", (Head(2, 1), Head(2, 0))),
        HeadGroup("b", "last", (Head(1, 3),)),
        HeadGroup("c", "query_label", (Head(0, 2),)),
        HeadGroup("d", "previous_query_label", (Head(0, 0), Head(1, 1))),
    )
)


def everything(positions=NAMES, layers: int = 3, heads: int = 4) -> Circuit:
    every = tuple(Head(layer, index) for layer in range(layers) for index in range(heads))
    return Circuit(tuple(HeadGroup(name, name, every) for name in positions))


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


@pytest.fixture(scope="module")
def others() -> PromptBatch:
    """Prompts of one length that means are taken over."""
    return padded_batch(Boxes(3).prompts(tokenizer(), 5, 0, "ablation"), PAD)


@pytest.fixture(scope="module")
def means(model, others) -> AblationValues:
    return AblationValues(mean_outputs(model, [others], None)["z"], None)


def question(boxes=(3, 3, 3), side: Side = "left") -> Question:
    pair: Pair = few_pairs(boxes, side)
    return Question(pair.base, pair.answer)


def test_means_per_position_are_those_of_plain_hooks(model, others, means):
    assert means.means.dtype == torch.float64
    expected = plain_hooks.mean_head_outputs(model.nn._module, others)
    torch.testing.assert_close(means.means, torch.stack(expected), **CLOSE)


def test_means_do_not_depend_on_how_prompts_are_batched(model, others, means):
    prompts = Boxes(3).prompts(tokenizer(), 5, 0, "ablation")
    runs = [padded_batch(prompts[:1], PAD), padded_batch(prompts[1:], PAD)]
    torch.testing.assert_close(mean_outputs(model, runs, None)["z"], means.means, **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_means_per_named_position_are_worked_out_by_hand(model, side):
    """Two prompts of 3 and 5 tokens: one mean for each name, one for the 1 + 3 other tokens; padding counts nowhere."""
    short = Prompt((0, 20, 30), {"label": 1, "last": 2})
    long = Prompt((0, 40, 50, 60, 70), {"label": 3, "last": 4})
    by_name = mean_outputs(model, [padded_batch([short, long], PAD, side)], ("label", "last"))["z"]
    one, two = (plain_hooks.head_outputs(model.nn._module, padded_batch([prompt])) for prompt in (short, long))
    for layer in range(model.n_layers):
        z, other = one[layer][0], two[layer][0]
        torch.testing.assert_close(by_name[layer, 0], (z[1] + other[3]) / 2, **CLOSE)
        torch.testing.assert_close(by_name[layer, 1], (z[2] + other[4]) / 2, **CLOSE)
        torch.testing.assert_close(by_name[layer, 2], (z[0] + other[0] + other[1] + other[2]) / 4, **CLOSE)


def test_slots_are_absolute_positions_or_names():
    short = Prompt((7, 8, 9), {"label": 1, "last": 2})
    long = Prompt((7, 8, 9, 10), {"label": 0, "last": 3})
    run = padded_batch([short, long])
    assert slots(run, None).tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]
    assert slots(run, ("last", "label")).tolist() == [[2, 2, 1, 0], [1, 2, 2, 0]]


def kept_by_hooks(circuit: Circuit) -> dict[str, set]:
    return {name: set(circuit.at(name)) for name in circuit.positions}


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_a_circuit_alone_agrees_with_plain_hooks(model, means, engine):
    asked = question()
    fewer = Circuit(
        (*CIRCUIT.groups[:1], HeadGroup("c", "query_label", ()), HeadGroup("d", "previous_query_label", ()))
    )
    circuits = [CIRCUIT, everything(), fewer]
    found = circuit_readouts(model, asked, means, circuits, engine, Chunks())
    module = model.nn._module
    for row, circuit in enumerate(circuits):
        logits = plain_hooks.circuit_logits(module, asked.run, list(means.means), kept_by_hooks(circuit))
        probability = logits.softmax(-1)[torch.arange(3), asked.answer]
        torch.testing.assert_close(found["probability"][row], probability, **CLOSE)
        assert torch.equal(found["predicted"][row], logits.argmax(-1))
    assert (found["probability"][0] - found["probability"][2]).abs().max() > 1e-4


def test_in_fp32_the_engines_agree_to_1e_5():
    model = tiny_model(hf_llama(kv_heads=1))
    others = padded_batch(Boxes(3).prompts(tokenizer(), 5, 0, "ablation"), PAD)
    means = AblationValues(mean_outputs(model, [others], None)["z"], None)
    found = [
        circuit_readouts(model, question(), means, [CIRCUIT, everything()], engine, Chunks())
        for engine in ("default", "reference")
    ]
    assert means.means is not None
    assert means.means.dtype == torch.float32
    assert_near(found[0]["probability"], found[1]["probability"])
    assert torch.equal(found[0]["predicted"], found[1]["predicted"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_prompts_with_named_means_agree_in_both_engines_and_with_plain_hooks(model, side):
    others = [padded_batch(Boxes(boxes).prompts(tokenizer(), 4, 0, "ablation"), PAD, side) for boxes in (2, 4)]
    means = AblationValues(mean_outputs(model, others, NAMES)["z"], NAMES)
    asked = question((2, 4, 3), side)
    assert means.means is not None
    found = [
        circuit_readouts(model, asked, means, [CIRCUIT, everything()], one, Chunks())
        for one in ("default", "reference")
    ]
    torch.testing.assert_close(found[0]["probability"], found[1]["probability"], **CLOSE)
    replaced, row = {}, torch.arange(3)
    for layer in range(model.n_layers):
        where = torch.ones(*asked.run.tokens.shape, model.n_heads, dtype=torch.bool)
        values = means.means[layer, -1].expand(*where.shape, -1).clone()
        for slot, name in enumerate(NAMES):
            values[row, asked.run.positions[name]] = means.means[layer, slot]
            for index in (head.index for head in CIRCUIT.at(name) if head.layer == layer):
                where[row, asked.run.positions[name], index] = False
        replaced[layer] = (where, values)
    logits = plain_hooks.replaced_logits(model.nn._module, asked.run, replaced)
    torch.testing.assert_close(found[0]["probability"][0], logits.softmax(-1)[row, asked.answer], **CLOSE)


@pytest.mark.parametrize("chunks", [Chunks(tokens=1), Chunks(branch_tokens=1), Chunks(branch_tokens=1 << 16)], ids=str)
def test_chunk_sizes_do_not_matter(model, means, chunks):
    asked, circuits = question(), [CIRCUIT, *random_circuits(CIRCUIT, 3, 4, 4, 0)]
    found = circuit_readouts(model, asked, means, circuits, "default", chunks)
    expected = circuit_readouts(model, asked, means, circuits, "default", Chunks())
    torch.testing.assert_close(found["probability"], expected["probability"], **CLOSE)


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_all_heads_at_the_vital_positions_are_not_the_whole_model(model, means, engine):
    """Heads at every other position take their mean, so something is lost unless the mean is the prompt's own."""
    asked = question()
    whole = model_readouts(model, asked, "default")["probability"]
    alone = circuit_readouts(model, asked, means, [everything()], engine, Chunks())["probability"][0]
    assert ((alone - whole).abs() > 1e-6).all()
    one = Question(
        PromptBatch(
            asked.run.tokens[:1], asked.run.mask[:1], {name: at[:1] for name, at in asked.run.positions.items()}
        ),
        asked.answer[:1],
    )
    own = AblationValues(mean_outputs(model, [one.run], None)["z"], None)
    for circuit in (everything(), CIRCUIT):
        same = circuit_readouts(model, one, own, [circuit], engine, Chunks())["probability"][0]
        torch.testing.assert_close(same, whole[:1], **CLOSE)


def without_by_hooks(model, run: PromptBatch, values: list, knocked: Circuit):
    """[batch, vocabulary]: logits when only the knocked heads, at their positions, output `values` per layer."""
    replaced, row = {}, torch.arange(len(run.tokens))
    for layer, value in enumerate(values):
        where = torch.zeros(*run.tokens.shape, model.n_heads, dtype=torch.bool)
        for name in knocked.positions:
            for index in (head.index for head in knocked.at(name) if head.layer == layer):
                where[row, run.positions[name], index] = True
        replaced[layer] = (where, value.expand(*where.shape, -1))
    return plain_hooks.replaced_logits(model.nn._module, run, replaced)


@pytest.mark.parametrize("engine", ["default", "reference"])
@pytest.mark.parametrize("kind", ["mean", "zero", "resampled"])
def test_a_model_without_a_circuit_agrees_with_plain_hooks(model, means, kind, engine):
    asked, other = question(), question().run
    other = PromptBatch(other.tokens.flip(0), other.mask, other.positions)
    fill = {"mean": means, "zero": AblationValues(), "resampled": AblationValues(resampled=other)}[kind]
    values = {
        "mean": list(means.means),
        "zero": [torch.zeros(model.n_heads, model.d_head, dtype=torch.float64)] * model.n_layers,
        "resampled": plain_hooks.head_outputs(model.nn._module, other),
    }[kind]
    sets = [CIRCUIT, Circuit(CIRCUIT.groups[:1]), Circuit((HeadGroup("c", "query_label", ()),))]
    found = remainder_readouts(model, asked, fill, sets, engine, Chunks())["probability"]
    for row, knocked in enumerate(sets):
        expected = without_by_hooks(model, asked.run, values, knocked).softmax(-1)[torch.arange(3), asked.answer]
        torch.testing.assert_close(found[row], expected, **CLOSE)
    torch.testing.assert_close(found[2], model_readouts(model, asked, "default")["probability"], **CLOSE)
    assert (found[0] - found[2]).abs().max() > 1e-4


def test_the_whole_models_readouts_are_those_of_a_plain_run(model):
    asked = question((2, 3, 2))
    found = model_readouts(model, asked, "default")
    logits = plain_hooks.run_model(model.nn._module, asked.run.tokens, asked.run.mask)[:, -1]
    torch.testing.assert_close(found["logit"], logits[torch.arange(3), asked.answer], **CLOSE)
    torch.testing.assert_close(found["probability"], logits.softmax(-1)[torch.arange(3), asked.answer], **CLOSE)
    assert torch.equal(found["predicted"], logits.argmax(-1))


def test_random_circuits_have_the_circuits_size_at_each_position_and_no_head_twice():
    drawn = random_circuits(CIRCUIT, n_layers=3, n_heads=5, count=60, seed=1)
    assert len(drawn) == 60
    for circuit in drawn:
        assert circuit.positions == CIRCUIT.positions
        for name in CIRCUIT.positions:
            assert len(circuit.at(name)) == len(CIRCUIT.at(name))
        assert circuit.size == CIRCUIT.size
    heads = {head for circuit in drawn for head in circuit.at("last")}
    assert heads == {
        Head(layer, index) for layer in range(3) for index in range(5)
    }  # any head, layers and heads unequal


def test_a_head_in_two_groups_at_one_position_is_drawn_once():
    shared = Circuit((HeadGroup("a", "last", (Head(0, 0), Head(0, 1))), HeadGroup("b", "last", (Head(0, 1),))))
    assert all(circuit.size == 2 for circuit in random_circuits(shared, 2, 2, 5, 0))


def test_random_circuits_are_decided_by_the_seed():
    assert random_circuits(CIRCUIT, 3, 5, 4, 1) == random_circuits(CIRCUIT, 3, 5, 4, 1)
    assert random_circuits(CIRCUIT, 3, 5, 4, 1) != random_circuits(CIRCUIT, 3, 5, 4, 2)
    assert len(set(random_circuits(CIRCUIT, 3, 5, 10, 1))) == 10
