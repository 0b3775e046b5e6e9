"""Activation patching: both engines against plain hooks, one and several positions, and what must change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nnsight_et.core.batch import Pair, PromptBatch, Question
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.activation_patching import layers_of, patched_readouts, patched_readouts_by_source
from tests.helpers import plain_methods
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

ENGINES = ("default", "reference")
CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EMPTY = Circuit(())


def heads(**chosen: str) -> Circuit:
    """position="L0H1 L2H3" -> those heads there, a group per position."""
    return Circuit(tuple(HeadGroup(at, at, tuple(map(Head.parse, names.split()))) for at, names in chosen.items()))


SETS = [
    heads(last="L2H1 L0H3"),
    heads(last="L1H0", query_label="L0H2 L1H1", previous_query_label="L0H0"),
    heads(correct_object="L1H3 L2H0", last="L2H2"),
    EMPTY,
    heads(query_label=""),
]


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


def places(circuit: Circuit) -> dict[str, tuple[Head, ...]]:
    return {group.at: group.heads for group in circuit.groups}


def null(pair: Pair) -> Pair:
    return Pair(pair.base, pair.base, pair.answer)


def turned(run: PromptBatch) -> PromptBatch:
    """The same prompts in the opposite order."""
    return PromptBatch(
        run.tokens.flip(0), run.mask.flip(0), {name: index.flip(0) for name, index in run.positions.items()}
    )


def patched(model, pair: Pair, sets=SETS, engine: str = "default", chunks: Chunks | None = None):
    return patched_readouts(model, pair, sets, engine, chunks or Chunks())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_sets_at_several_positions_agree_with_plain_hooks(model, engine, side):
    pair = few_pairs(side=side)
    found = patched(model, pair, engine=engine)
    assert found["probability"].shape == (len(SETS), 3)
    for row, chosen in enumerate(SETS):
        logits = plain_methods.patched_logits(model.nn._module, pair, places(chosen))
        probability = plain_methods.probabilities(logits, pair.answer)
        torch.testing.assert_close(found["probability"][row], probability, **CLOSE)
        torch.testing.assert_close(found["logit"][row], logits[torch.arange(3), pair.answer], **CLOSE)
        assert torch.equal(found["predicted"][row], logits.argmax(-1))
    assert (found["probability"][:3] - found["probability"][3]).abs().amin(-1).min() > 1e-6  # every set does something


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_in_fp32_both_engines_agree_with_plain_hooks_to_1e_5(kv_heads, engine):
    module, pair = hf_llama(kv_heads=kv_heads), few_pairs()
    found = patched(tiny_model(module), pair, engine=engine)["probability"]
    for row, chosen in enumerate(SETS):
        logits = plain_methods.patched_logits(module, pair, places(chosen))
        expected = plain_methods.probabilities(logits, pair.answer)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_a_source_equal_to_the_base_changes_nothing():
    model, pair = tiny_model(hf_llama()), few_pairs()
    logits = plain_methods.plain_logits(model.nn._module, pair.base)
    plain = reference.reference_readout(logits, pair.answer).probability
    exact = patched(model, null(pair), engine="reference")
    assert torch.equal(exact["probability"], plain.expand(len(SETS), -1))
    assert torch.equal(exact["logit"], logits[torch.arange(3), pair.answer].expand(len(SETS), -1))
    fast = patched(model, null(pair))["probability"]
    assert (fast - plain).abs().max() <= 1e-6
    assert (fast / plain - 1).abs().max() <= 1e-5
    assert (patched(model, pair)["probability"][0] / plain - 1).abs().max() > 0.01


def test_no_heads_change_nothing_beside_others_and_alone():
    model, pair = tiny_model(hf_llama()), few_pairs()
    logits = plain_methods.plain_logits(model.nn._module, pair.base)
    plain = reference.reference_readout(logits, pair.answer).probability
    for sets in ([EMPTY], [heads(last="")], SETS[2:]):
        assert torch.equal(patched(model, pair, sets, "reference")["probability"][-1], plain)
        assert (patched(model, pair, sets)["probability"][-1] / plain - 1).abs().max() <= 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_all_heads_at_last_give_the_sources_own_answer_by_hand(model, engine):
    """The last token and its place are the same in both prompts: nothing of the base is left to read at `last`."""
    pair = few_pairs((3, 3, 3))
    every = " ".join(f"L{layer}H{index}" for layer in range(3) for index in range(4))
    found = patched(model, pair, [heads(last=every)], engine)
    logits = plain_methods.plain_logits(model.nn._module, pair.source)
    torch.testing.assert_close(found["logit"][0], logits[torch.arange(3), pair.answer], **CLOSE)
    assert torch.equal(found["predicted"][0], logits.argmax(-1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_heads_position_counts(model, engine):
    """The same head at another position, or from another position of the source, is another intervention."""
    pair = few_pairs()
    moved = pair.source.positions | {"last": pair.source.positions["query_label"]}
    elsewhere = Pair(pair.base, PromptBatch(pair.source.tokens, pair.source.mask, moved), pair.answer)
    here, other = (heads(last="L1H2"), heads(query_label="L1H2"))
    found = patched(model, pair, [here, other], engine)["probability"]
    assert (found[0] - found[1]).abs().max() > 1e-5
    assert (patched(model, elsewhere, [here], engine)["probability"][0] - found[0]).abs().max() > 1e-5


def test_two_groups_at_one_position_are_patched_together(model):
    pair = few_pairs()
    split = Circuit((HeadGroup("a", "last", (Head(1, 2),)), HeadGroup("b", "last", (Head(2, 0), Head(1, 2)))))
    for engine in ENGINES:
        found = patched(model, pair, [split, heads(last="L1H2 L2H0")], engine)["probability"]
        torch.testing.assert_close(found[0], found[1], **CLOSE)


@pytest.mark.parametrize("chunks", [Chunks(tokens=1), Chunks(branch_tokens=1), Chunks(branch_tokens=1 << 16)], ids=str)
def test_chunk_sizes_do_not_matter(model, chunks):
    pair = few_pairs()
    found, expected = patched(model, pair, chunks=chunks), patched(model, pair)
    torch.testing.assert_close(found["probability"], expected["probability"], **CLOSE)


def test_only_layers_with_a_patched_head_are_taken_from_the_source():
    assert layers_of(SETS) == {
        "last": {0, 1, 2},
        "query_label": {0, 1},
        "previous_query_label": {0},
        "correct_object": {1, 2},
    }
    assert layers_of([EMPTY, heads(last="")]) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_several_sources_of_one_base_run_are_what_each_of_them_is_alone(model, engine):
    pair = few_pairs()
    other = Pair(pair.base, turned(pair.source), pair.answer.flip(0))
    pairs, mine = [pair, other], [(0, SETS[1]), (0, EMPTY), (1, SETS[0]), (1, SETS[2]), (1, EMPTY)]
    sources = [Question(one.source, one.answer) for one in pairs]
    together = patched_readouts_by_source(model, pair.base, sources, mine, engine, Chunks())
    for row, (number, chosen) in enumerate(mine):
        alone = patched(model, pairs[number], [chosen], engine)
        for name in alone:
            torch.testing.assert_close(together[name][row], alone[name][0], **CLOSE)
    assert not torch.allclose(together["probability"][0], together["probability"][2])
