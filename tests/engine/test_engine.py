"""The engine's parts: a captured run, the suffix pass over it, the one-token pass, and chunk sizes."""

from __future__ import annotations

from typing import Any

import nnsight
import pytest
import torch
from torch import Tensor

from nnsight_et.core.circuit import Head
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks, chunks
from nnsight_et.engine.capture import capture_run, head_outputs, live_at, suffix_of
from nnsight_et.engine.one_token import Receivers
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Readout, plain, readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.catalog import KNOWN_MODELS
from tests.helpers import plain_hooks
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
LIVE = {
    "suffix": lambda run: suffix_of(run, run.positions["previous_query_label"]),
    "all but the first token, padding too": lambda run: suffix_of(run, torch.ones_like(run.positions["last"])),
    "last token": lambda run: suffix_of(run, run.positions["last"]),
    "named positions": lambda run: live_at(run, ("last", "previous_query_label", "query_label")),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


def assert_same_readout(found: Readout, expected: Readout) -> None:
    for name, one in found.numbers().items():
        torch.testing.assert_close(one, expected.numbers()[name].expand_as(one), **CLOSE)


def by_suffix(model, pair, live: Tensor, start: int, edits=(), sizes: Chunks | None = None) -> Readout:
    with model.session():
        capture = capture_run(model, pair.base, live, [start])
        outcome = nnsight.save(suffix(model, capture, start, edits, pair.answer, sizes or Chunks()).numbers())
    return Readout(**outcome)


def plain_readout(model, pair) -> Readout:
    with model.session():
        outcome = nnsight.save(plain(model, pair.base, pair.answer).numbers())
    return Readout(**outcome)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("live", LIVE.values(), ids=LIVE)
def test_a_suffix_pass_without_edits_repeats_the_plain_run_from_every_layer(model, live, side):
    pair = few_pairs(side=side)
    whole = plain_readout(model, pair)
    first, heads = torch.zeros(3, dtype=torch.long), torch.arange(model.n_heads)
    nothing = torch.zeros(1, 3, model.n_heads, model.d_head, dtype=torch.float64)
    for start in range(model.n_layers):
        assert_same_readout(by_suffix(model, pair, live(pair.base), start), whole)
        keep_all = Edit(start, "z", first, heads, nothing, torch.ones(5, model.n_heads, dtype=torch.bool))
        many = by_suffix(model, pair, live(pair.base), start, [keep_all])
        assert many.probability.shape == (5, 3)
        assert_same_readout(many, whole)


def test_the_captured_logits_are_those_of_the_plain_run(model):
    pair = few_pairs()
    with model.session():
        logits = nnsight.save(
            capture_run(model, pair.base, suffix_of(pair.base, pair.base.positions["last"]), []).logits
        )
    expected = plain_hooks.run_model(model.nn._module, pair.base.tokens, pair.base.mask)[:, -1]
    torch.testing.assert_close(logits, expected, **CLOSE)


def variants_of(model, pair, count: int, seed: int = 0) -> list[Edit]:
    """Random values for heads of two layers at two positions, different in every variant."""
    draw = torch.Generator().manual_seed(seed)

    def values(heads: int) -> Tensor:
        return torch.randn(count, len(pair.answer), heads, model.d_head, generator=draw, dtype=torch.float64)

    live = suffix_of(pair.base, pair.base.positions["previous_query_label"])
    slots = {
        name: (live == pair.base.positions[name][:, None]).long().argmax(-1)
        for name in ("last", "previous_query_label")
    }
    return [
        Edit(1, "value", slots["previous_query_label"], torch.tensor([1]), values(1)),
        Edit(1, "z", slots["last"], torch.tensor([0, 3]), values(2)),
        Edit(2, "query", slots["last"], torch.tensor([2]), values(1)),
    ]


SIZES = {
    "all branches": Chunks(branch_tokens=1 << 16),
    "all rows": Chunks(branch_tokens=1),
    "rows of branches": Chunks(branch_tokens=60),
    "one at a time": Chunks(tokens=1),
    "passes of three": Chunks(tokens=3 * 3 * 21, branch_tokens=1 << 16),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_branches_rows_and_single_passes_give_the_same_variants(model, sizes):
    pair, count = few_pairs(), 7
    live = suffix_of(pair.base, pair.base.positions["previous_query_label"])
    edits = variants_of(model, pair, count)
    found = by_suffix(model, pair, live, 1, edits, sizes)
    assert found.probability.shape == (count, 3)
    alone = [
        by_suffix(model, pair, live, 1, [edit.for_variants(torch.tensor([i])) for edit in edits]).probability[0]
        for i in range(count)
    ]
    torch.testing.assert_close(found.probability, torch.stack(alone), **CLOSE)
    assert (alone[0] - alone[1]).abs().max() > 1e-4  # the variants are not all the same


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_variant_does_not_see_another_ones_values(model, sizes):
    pair, count, changed = few_pairs(), 7, 3
    live = suffix_of(pair.base, pair.base.positions["previous_query_label"])
    before = by_suffix(model, pair, live, 1, variants_of(model, pair, count), sizes).logit
    edits = variants_of(model, pair, count)
    for edit in edits:
        edit.values[changed] = 50.0
    after = by_suffix(model, pair, live, 1, edits, sizes).logit
    others = torch.arange(count) != changed
    assert torch.equal(after[others], before[others])
    assert (after[changed] - before[changed]).abs().max() > 1e-2


def test_a_kept_head_stays_and_a_mixed_one_lies_between(model):
    pair = few_pairs()
    live, slot = live_at(pair.base, ("last",)), torch.zeros(3, dtype=torch.long)
    values, heads = torch.full((1, 3, 2, model.d_head), 2.0, dtype=torch.float64), torch.tensor([1, 2])
    keep = torch.tensor([[True, True], [False, False], [True, False]])
    chosen = by_suffix(model, pair, live, 0, [Edit(1, "z", slot, heads, values, keep)])
    mixed = by_suffix(model, pair, live, 0, [Edit(1, "z", slot, heads, values, keep.double())])
    assert_same_readout(mixed, chosen)
    torch.testing.assert_close(chosen.logit[0], plain_readout(model, pair).logit, **CLOSE)
    replaced = by_suffix(model, pair, live, 0, [Edit(1, "z", slot, heads, values)]).logit[0]
    torch.testing.assert_close(chosen.logit[1], replaced, **CLOSE)
    only = by_suffix(model, pair, live, 0, [Edit(1, "z", slot, heads[1:], values[:, :, 1:])]).logit[0]
    torch.testing.assert_close(chosen.logit[2], only, **CLOSE)
    half = by_suffix(model, pair, live, 0, [Edit(1, "z", slot, heads, values, torch.full((1, 2), 0.5).double())])
    assert (half.logit[0] - replaced).abs().max() > 1e-3
    assert (half.logit[0] - chosen.logit[0]).abs().max() > 1e-3


@pytest.mark.parametrize("fewer", ["last token", "named positions"])
def test_a_narrowed_run_is_one_captured_with_fewer_live_tokens(model, fewer):
    pair, kept = few_pairs(), []
    live = LIVE[fewer](pair.base)
    with model.session():
        whole = capture_run(model, pair.base, LIVE["suffix"](pair.base), [1, 2])
        for capture in (whole.with_live(live), capture_run(model, pair.base, live, [1, 2])):
            kept.append([capture.live, capture.visible, capture.entering[1], capture.entering[2]])
        kept = nnsight.save(kept)
    for one, other in zip(*kept, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_what_all_variants_share_is_given_once(model, sizes):
    """Values of one variant with kept heads of two, and values of two with kept heads of one."""
    pair = few_pairs()
    live, slot = live_at(pair.base, ("last", "query_label")), torch.ones(3, dtype=torch.long)
    torch.manual_seed(0)
    values, heads = torch.randn(2, 3, 2, model.d_head, dtype=torch.float64), torch.tensor([1, 2])
    keep = torch.tensor([[True, False], [False, True]])
    for given, kept in ((values[:1], keep), (values, keep[:1])):
        found = by_suffix(model, pair, live, 1, [Edit(1, "z", slot, heads, given, kept)], sizes).logit
        for i in range(2):
            own = Edit(1, "z", slot, heads, given[i % len(given)][None], kept[i % len(kept)][None])
            torch.testing.assert_close(found[i], by_suffix(model, pair, live, 1, [own]).logit[0], **CLOSE)
        assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_suffix_pass_with_patched_heads_agrees_with_plain_hooks(model):
    pair, heads = few_pairs(), [Head(0, 3), Head(1, 1), Head(1, 2)]
    run, at = pair.base, "query_label"
    live = suffix_of(run, run.positions[at])
    with model.session():
        capture = capture_run(model, run, live, [0])
        donated = head_outputs(model, pair.source, {at: [0, 1]})[at]
        edits = [
            Edit(0, "z", capture.live_index(run.positions[at]), torch.tensor([3]), donated[0][None, :, 3:]),
            Edit(1, "z", capture.live_index(run.positions[at]), torch.tensor([1, 2]), donated[1][None, :, 1:3]),
        ]
        found = nnsight.save(suffix(model, capture, 0, edits, pair.answer, Chunks()).numbers())
    logits = plain_hooks.activation_patched_logits(model.nn._module, pair, heads, at)
    torch.testing.assert_close(found["logit"][0], logits[torch.arange(3), pair.answer], **CLOSE)


def test_head_outputs_are_those_of_plain_hooks_in_the_wanted_layers_only(model):
    run = few_pairs().base
    wanted = {"query_label": [1, 0], "last": [2]}
    with model.session():
        found = nnsight.save(head_outputs(model, run, wanted))
    every = plain_hooks.head_outputs(model.nn._module, run)
    assert {name: sorted(layers) for name, layers in found.items()} == {"query_label": [0, 1], "last": [2]}
    for name, layers in found.items():
        for layer, z in layers.items():
            torch.testing.assert_close(z, every[layer][torch.arange(3), run.positions[name]], **CLOSE)


@pytest.mark.parametrize("via", ["query", "key", "value"])
def test_the_one_token_pass_gives_receivers_what_the_frozen_run_gives_them(model, via):
    pair, at, receivers = few_pairs(), "query_label", (Head(1, 1), Head(2, 0), Head(2, 3))
    with model.session():
        ends = Receivers.of(model, receivers, via)
        live = suffix_of(pair.base, pair.base.positions[at])
        capture = capture_run(model, pair.base, live, [1], [pair.base.positions[at]])
        donated = head_outputs(model, pair.source, {at: [0]})[at][0]
        senders = one_token.Senders((0, 0, 0), torch.tensor([0, 2, 3]), {0: donated})
        found = nnsight.save(one_token.to_receivers(model, capture.tokens[0], senders, ends))
        base_z, source_z = reference.head_outputs(model, pair.base), reference.head_outputs(model, pair.source)
        expected = {1: [], 2: []}
        for sender in (0, 2, 3):
            frozen = reference.frozen_but(pair, at, Head(0, sender), base_z, source_z)
            inputs = reference.receiver_inputs(model, pair.base, frozen, Path(at, via, receivers))
            row, position = torch.arange(3), pair.base.positions[at]
            for layer in (1, 2):
                expected[layer].append(inputs[layer][row, position][:, ends.heads[layer]])
        expected = nnsight.save({layer: torch.stack(values) for layer, values in expected.items()})
    assert sorted(found) == [1, 2]
    for layer, values in found.items():
        torch.testing.assert_close(values, expected[layer], **CLOSE)
    assert (found[2][0] - found[2][1]).abs().max() > 1e-4  # senders differ


def test_receivers_via_key_or_value_are_kv_heads(model):
    heads = (Head(2, 3), Head(1, 0), Head(2, 2), Head(2, 0))
    query, value = Receivers.of(model, heads, "query"), Receivers.of(model, heads, "value")
    assert {layer: index.tolist() for layer, index in query.heads.items()} == {1: [0], 2: [0, 2, 3]}
    assert {layer: index.tolist() for layer, index in value.heads.items()} == {1: [0], 2: [0, 1]}
    assert list(query.heads) == [1, 2]


def test_a_readout_is_a_softmax_over_all_tokens():
    logits = torch.tensor([[[0.0, 1.0, 0.0]], [[3.0, 0.0, 0.0]]]).log1p()  # weights 1 2 1 and 4 1 1
    found = readout(logits, torch.tensor([1]))
    torch.testing.assert_close(found.probability, torch.tensor([[1 / 2], [1 / 6]]))
    assert found.predicted.tolist() == [[1], [0]]
    torch.testing.assert_close(found.logit, logits[:, :, 1])


def test_a_readout_of_16_bit_logits_is_taken_in_fp32():
    found = readout(torch.zeros(2, 3000, dtype=torch.bfloat16), torch.tensor([5, 7]))
    torch.testing.assert_close(found.probability, torch.full((2,), 1 / 3000))


def test_chunk_sizes_follow_the_memory_budget():
    shape = KNOWN_MODELS["llama-tiny"].shape
    small, large = chunks(shape, 4, 54, 32 << 20), chunks(shape, 4, 54, 64 << 20)
    assert 1 < small.examples < large.examples <= 50
    assert 1 < small.tokens < large.tokens
    assert chunks(shape, 4, 540, 32 << 20).examples < small.examples
    assert chunks(shape, 2, 54, 32 << 20).tokens > small.tokens
    assert 1 < small.kept < large.kept
    assert chunks(shape, 4, 54, 1) == Chunks(examples=1, tokens=1, kept=0)
    assert Chunks(**small.to_dict()) == small


def test_chunk_sizes_by_hand():
    """Per token: in layers 4 (3 256 + 8 128 + 4 256) = 11264, logits 10 283, kept 4 6 (2 256 + 128 + 256) = 21504."""
    for read, prompt in ((1, 10 * 32768 + 2830), (6, 10 * 32768 + 6 * 2830)):
        found = chunks(KNOWN_MODELS["llama-tiny"].shape, 4, 10, 32 << 20, read)
        assert found == Chunks(examples=(8 << 20) // prompt, tokens=(16 << 20) // 14094, kept=(8 << 20) // 215040)
    assert chunks(KNOWN_MODELS["llama-tiny"].shape, 4, 10, 1 << 40) == Chunks(examples=50, tokens=1 << 16, kept=1 << 12)


def test_at_least_one_variant_goes_through_in_a_pass():
    assert Chunks(tokens=100).variants(3, 10) == 3
    assert Chunks(tokens=1).variants(50, 40) == 1
