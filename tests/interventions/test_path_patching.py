"""Path patching: both engines against plain hooks, on several attention layouts, positions and paddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Head
from nnsight_et.core.metrics import patching_score
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near, tolerance
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

KV_HEADS = {"MHA": 4, "GQA": 2, "MQA": 1}
PATHS = {
    "direct": Path("last"),
    "query at last": Path("last", "query", (Head(1, 3), Head(2, 0), Head(2, 1))),
    "key at query_label": Path("query_label", "key", (Head(2, 3), Head(1, 0))),
    "value at query_label": Path("query_label", "value", (Head(2, 2), Head(2, 3))),
    "value at previous_query_label": Path("previous_query_label", "value", (Head(1, 2), Head(2, 0))),
}


def probabilities(model, pair: Pair, path: Path, engine: str = "default", chunks: Chunks | None = None):
    senders = path.reaching(model.n_layers, model.n_heads)
    return path_probabilities(model, pair, path, senders, engine, chunks or Chunks())


def by_hooks(module, pair: Pair, path: Path) -> dict[str, Tensor]:
    """The same from plain hooks, the softmax in the model's own precision."""
    config = module.config
    senders = path.reaching(config.num_hidden_layers, config.num_attention_heads)
    z = plain_hooks.head_outputs(module, pair.base), plain_hooks.head_outputs(module, pair.source)
    patched = plain_hooks.patched_logits(module, pair, z, senders, (path.receivers, path.via, path.at))
    base = plain_hooks.run_model(module, pair.base.tokens, pair.base.mask)
    row, last = torch.arange(len(base)), pair.base.positions["last"]
    chosen = patched.unflatten(0, (len(senders), -1))[:, row, last].softmax(-1)
    return {"base": base[row, last].softmax(-1)[row, pair.answer], "patched": chosen[:, row, pair.answer]}


def assert_same_scores(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """Scores agree within `relative` times the mean of p_patched / p_base, where that is above 1."""
    assert found["patched"].shape == expected["patched"].shape
    torch.testing.assert_close(found["base"], expected["base"], atol=0, rtol=relative)
    limit = relative * (expected["patched"] / expected["base"]).mean(-1).clamp(min=1)
    score = {name: patching_score(one["patched"], one["base"]) for name, one in (("f", found), ("e", expected))}
    assert ((score["f"] - score["e"]).abs() <= limit).all(), (score["f"] - score["e"]).abs().max()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
def test_both_engines_agree_with_plain_hooks_in_fp32(kv_heads, bias, path):
    module = hf_llama(kv_heads=kv_heads, attention_bias=bias)
    pair = few_pairs()
    expected = by_hooks(module, pair, path)
    model = tiny_model(module)
    assert_same_scores(probabilities(model, pair, path), expected, 1e-5)
    assert_same_scores(probabilities(model, pair, path, "reference"), expected, 1e-5)
    assert patching_score(expected["patched"], expected["base"]).abs().max() > 0.002  # there is something to get wrong


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
def test_both_engines_agree_with_plain_hooks_to_1e_9_in_float64(kv_heads, path):
    module = hf_llama(kv_heads=kv_heads, attention_bias=True, dtype=torch.float64)
    pair = few_pairs()
    expected = by_hooks(module, pair, path)
    model = tiny_model(module)
    assert_same_scores(probabilities(model, pair, path), expected, 1e-9)
    assert_same_scores(probabilities(model, pair, path, "reference"), expected, 1e-9)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_eager_attention_agrees_with_plain_hooks(path):
    module = hf_llama()
    pair = few_pairs()
    model = tiny_model(module, "eager")
    assert_same_scores(probabilities(model, pair, path), by_hooks(module, pair, path), 1e-5)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_right_padding_agrees_with_plain_hooks_and_with_left_padding(path):
    module = hf_llama(dtype=torch.float64)
    left, right = few_pairs(), few_pairs(side="right")
    expected = by_hooks(module, right, path)
    model = tiny_model(module)
    for engine in ("default", "reference"):
        assert_same_scores(probabilities(model, right, path, engine), expected, 1e-9)
    assert_same_scores(probabilities(model, left, path), expected, 1e-9)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_batches_of_one_agree_with_the_padded_batch(path):
    model = tiny_model(hf_llama())
    together = probabilities(model, few_pairs(), path)
    pair = few_pairs()
    for row in range(3):
        alone = one_row(pair, row)
        only = probabilities(model, alone, path)
        assert_near(only["patched"][:, 0], together["patched"][:, row])


def one_row(pair: Pair, row: int) -> Pair:
    """That example without its padding."""

    def alone(run: PromptBatch) -> PromptBatch:
        real = run.mask[row].bool()
        shift = int(real.long().argmax())
        positions = {name: index[row : row + 1] - shift for name, index in run.positions.items()}
        return PromptBatch(run.tokens[row, real][None], run.mask[row, real][None], positions)

    return Pair(alone(pair.base), alone(pair.source), pair.answer[row : row + 1])


CHUNKS = {
    "one variant a pass": Chunks(tokens=1, branch_tokens=1),
    "rows only": Chunks(branch_tokens=1),
    "branches only": Chunks(branch_tokens=1 << 16),
    "uneven rows": Chunks(tokens=3 * 9 * 23, branch_tokens=100),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_chunk_sizes_do_not_matter(path, chunks):
    model, pair = tiny_model(hf_llama()), few_pairs()
    assert_same_scores(probabilities(model, pair, path, chunks=chunks), probabilities(model, pair, path), 1e-5)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_source_equal_to_the_base_changes_nothing(path):
    model, pair = tiny_model(hf_llama(attention_bias=True)), few_pairs()
    null = Pair(pair.base, pair.base, pair.answer)
    exact, fast = probabilities(model, null, path, "reference"), probabilities(model, null, path)
    assert torch.equal(exact["patched"], exact["base"].expand_as(exact["patched"]))
    assert patching_score(fast["patched"], fast["base"]).abs().max() <= tolerance()


@pytest.mark.parametrize("via", ["query", "key", "value"])
def test_a_sender_in_or_above_the_last_receivers_layer_has_no_effect(via):
    model, pair = tiny_model(hf_llama()), few_pairs()
    path = Path("last" if via == "query" else "query_label", via, (Head(1, 0), Head(1, 2)))
    senders = [Head(layer, index) for layer in (1, 2) for index in range(model.n_heads)]
    found = path_probabilities(model, pair, path, senders, "reference", Chunks())
    assert torch.equal(found["patched"], found["base"].expand_as(found["patched"]))
    assert path.reaching(model.n_layers, model.n_heads) == [Head(0, index) for index in range(model.n_heads)]


def test_every_head_reaches_the_logits_and_those_below_the_last_receiver_reach_receivers():
    assert Path("last").reaching(2, 3) == [Head(layer, index) for layer in range(2) for index in range(3)]
    mixed = Path("last", "query", (Head(2, 0), Head(1, 1)))
    assert mixed.reaching(4, 2) == [Head(layer, index) for layer in range(2) for index in range(2)]


@pytest.mark.parametrize("engine", ["default", "reference"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_sources_own_position_is_used(path, engine):
    model, pair = tiny_model(hf_llama()), few_pairs()
    moved = dict(pair.source.positions) | {path.at: pair.source.positions["correct_object"]}
    elsewhere = Pair(pair.base, replace(pair.source, positions=moved), pair.answer)
    here, there = probabilities(model, pair, path, engine), probabilities(model, elsewhere, path, engine)
    assert torch.equal(here["base"], there["base"])
    change = patching_score(there["patched"], there["base"]) - patching_score(here["patched"], here["base"])
    assert change.abs().max() > 1e-3
    assert_same_scores(there, by_hooks(model.nn._module, elsewhere, path), 1e-5)


@pytest.mark.parametrize("engine", ["default", "reference"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_sender_that_can_reach_the_end_of_the_path_has_an_effect(path, engine):
    model, pair = tiny_model(hf_llama()), few_pairs()
    found = probabilities(model, pair, path, engine)
    assert ((found["patched"] - found["base"]).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("engine", ["default", "reference"])
def test_only_the_path_into_the_receivers_is_patched(engine):
    """Receivers whose output goes nowhere end a path without effect: the sender's other paths are left alone."""
    module = hf_llama(kv_heads=4, dtype=torch.float64)
    width = module.config.head_dim
    receiver = Head(2, 1)
    out = module.model.layers[receiver.layer].self_attn.o_proj
    out.weight[:, receiver.index * width : (receiver.index + 1) * width] = 0
    model, pair = tiny_model(module), few_pairs()
    for path in (Path("last", "query"), Path("query_label", "key"), Path("previous_query_label", "value")):
        cut = probabilities(model, pair, replace(path, receivers=(receiver,)), engine)
        assert (cut["patched"] - cut["base"]).abs().max() < 1e-12
        open_end = probabilities(model, pair, replace(path, receivers=(Head(2, 2),)), engine)
        assert (open_end["patched"] - open_end["base"]).abs().max() > 1e-5


def test_query_heads_of_one_group_share_the_patched_key_and_value():
    model, pair = tiny_model(hf_llama(kv_heads=2)), few_pairs()
    for via in ("key", "value"):
        one, other, both = (
            probabilities(model, pair, Path("query_label", via, heads))["patched"]
            for heads in ((Head(2, 0),), (Head(2, 1),), (Head(2, 0), Head(2, 1)))
        )
        assert torch.equal(one, other)
        assert torch.equal(one, both)
        outside = probabilities(model, pair, Path("query_label", via, (Head(2, 2),)))["patched"]
        assert not torch.allclose(one, outside, atol=1e-6)
