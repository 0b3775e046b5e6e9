"""MLPs as senders and receivers: both engines against plain hooks, nulls, reach, positions, chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.core.metrics import patching_score
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.models.model import Model
from tests.helpers import plain_mlps
from tests.helpers.architecture_table import ENGINES, apart, having, made
from tests.helpers.architectures import every
from tests.helpers.closeness import assert_near, tolerance
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model
from tests.interventions.test_path_patching import CHUNKS, one_row

HEADS = (Head(2, 0), Head(1, 3))
MLPS = (Mlp(2), Mlp(1))
PATHS = {
    "MLPs into logits": Path("last", senders="mlps"),
    "MLPs into queries": Path("last", "query", HEADS, senders="mlps"),
    "MLPs into keys": Path("query_label", "key", HEADS, senders="mlps"),
    "MLPs into values": Path("previous_query_label", "value", HEADS, senders="mlps"),
    "MLPs into MLPs": Path("last", "input", MLPS, senders="mlps"),
    "MLPs into an MLP further back": Path("query_label", "input", (Mlp(1),), senders="mlps"),
    "heads into MLPs": Path("last", "input", MLPS),
    "heads into the first MLP": Path("query_label", "input", (Mlp(0),)),
}


def found(model: Model, pair: Pair, path: Path, engine: str = "default", chunks: Chunks | None = None):
    senders = path.reaching(model.n_layers, model.n_heads, model.parallel)
    return path_probabilities(model, pair, path, senders, engine, chunks or Chunks())


def expected(module, model: Model, pair: Pair, path: Path):
    """p_base and p_patched by plain hooks; MLPs are layers there."""
    senders = [_plain(one) for one in path.reaching(model.n_layers, model.n_heads, model.parallel)]
    return plain_mlps.path_patching(module, pair, senders, [_plain(one) for one in path.receivers], path.via, path.at)


def _plain(one: Head | Mlp) -> tuple[int, int] | int:
    return one.layer if isinstance(one, Mlp) else (one.layer, one.index)


@pytest.mark.parametrize("name", every())
def test_both_engines_agree_with_plain_hooks_on_every_architecture(name):
    (module, model), pair = made(name), few_pairs((2, 3))
    for about, path in PATHS.items():
        path = replace(path, receivers=having(model, path))
        if not path.reaching(3, 4, model.parallel):
            continue
        base, patched = expected(module, model, pair, path)
        for engine in ENGINES:
            one = found(model, pair, path, engine)
            assert apart(one["patched"], patched) < 1e-5, (about, engine)
            assert apart(one["base"], base) < 1e-5
        if model.storing is None or about != "MLPs into an MLP further back":  # nobody has keys of that any more
            assert (patched.log() - base.log()).abs().max() > 5e-4, about  # there is something to get wrong


@pytest.mark.parametrize("name", every())
def test_a_head_moves_its_own_layers_mlp_unless_blocks_are_parallel(name):
    """What a configuration says of its blocks, which decides who can reach an MLP, is what its blocks do."""
    (module, model), pair, path = made(name), few_pairs((2, 3)), Path("last", "input", (Mlp(1),))
    base, patched = plain_mlps.path_patching(module, pair, [(1, 2)], [1], "input", "last")
    assert torch.equal(base, patched[0]) == model.parallel
    assert (Head(1, 2) in path.reaching(3, 4, model.parallel)) == (not model.parallel)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_both_engines_agree_with_plain_hooks_to_1e_9_in_float64(path):
    module, pair = hf_llama(attention_bias=True, dtype=torch.float64), few_pairs()
    model = tiny_model(module)
    _, patched = expected(module, model, pair, path)
    for engine in ENGINES:
        assert apart(found(model, pair, path, engine)["patched"], patched) < 1e-9


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_source_equal_to_the_base_changes_nothing(path):
    model, pair = tiny_model(hf_llama(attention_bias=True)), few_pairs()
    null = Pair(pair.base, pair.base, pair.answer)
    exact, fast = found(model, null, path, "reference"), found(model, null, path)
    assert torch.equal(exact["patched"], exact["base"].expand_as(exact["patched"]))
    assert patching_score(fast["patched"], fast["base"]).abs().max() <= tolerance()


@pytest.mark.parametrize(
    ("path", "senders"),
    [
        (Path("last", "query", (Head(1, 0),), senders="mlps"), [Mlp(1), Mlp(2)]),
        (Path("query_label", "value", (Head(1, 2),), senders="mlps"), [Mlp(1), Mlp(2)]),
        (Path("last", "input", (Mlp(1),), senders="mlps"), [Mlp(1), Mlp(2)]),
        (Path("last", "input", (Mlp(1),)), [Head(2, 0), Head(2, 3)]),
    ],
    ids=["MLPs into queries", "MLPs into values", "MLPs into MLPs", "heads into MLPs"],
)
def test_a_sender_above_the_last_receiver_has_no_effect_and_is_not_run(path, senders):
    model, pair = tiny_model(hf_llama()), few_pairs()
    exact = path_probabilities(model, pair, path, senders, "reference", Chunks())
    assert torch.equal(exact["patched"], exact["base"].expand_as(exact["patched"]))
    assert not set(senders) & set(path.reaching(3, 4))


def test_in_parallel_blocks_heads_do_not_reach_the_mlp_beside_them():
    (_, model), pair, path = made("GPT-NeoX"), few_pairs(), Path("last", "input", (Mlp(1),))
    exact = path_probabilities(model, pair, path, [Head(1, 0)], "reference", Chunks())
    assert torch.equal(exact["patched"][0], exact["base"])
    assert {head.layer for head in path.reaching(3, 4, parallel=True)} == {0}
    assert {head.layer for head in path.reaching(3, 4)} == {0, 1}


def test_mlps_reach_the_logits_from_every_layer_and_receivers_from_below_the_last():
    assert Path("last", senders="mlps").reaching(3, 4) == [Mlp(0), Mlp(1), Mlp(2)]
    assert Path("last", "query", (Head(2, 1), Head(1, 0)), senders="mlps").reaching(3, 4) == [Mlp(0), Mlp(1)]


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_chunk_sizes_do_not_matter(path, chunks):
    model, pair = tiny_model(hf_llama()), few_pairs()
    one, other = found(model, pair, path, chunks=chunks)["patched"], found(model, pair, path)["patched"]
    assert apart(one, other) < 1e-5


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_prompts_of_several_lengths_are_what_each_is_alone(path):
    model, pair = tiny_model(hf_llama()), few_pairs()
    for engine in ENGINES:
        together = found(model, pair, path, engine)["patched"]
        for row in range(3):
            alone = found(model, one_row(pair, row), path, engine)["patched"]
            assert_near(alone[:, 0], together[:, row])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_sources_own_position_is_used(engine):
    module, pair, path = hf_llama(), few_pairs(), PATHS["MLPs into values"]
    model = tiny_model(module)
    moved = dict(pair.source.positions) | {path.at: pair.source.positions["correct_object"]}
    elsewhere = Pair(pair.base, replace(pair.source, positions=moved), pair.answer)
    here, there = found(model, pair, path, engine), found(model, elsewhere, path, engine)
    assert apart(here["patched"], there["patched"]) > 1e-3
    assert apart(there["patched"], expected(module, model, elsewhere, path)[1]) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_an_mlp_that_adds_nothing_ends_a_path_without_effect(engine):
    """The path ends in the receiver alone: what the sender does to other parts is left alone."""
    module = hf_llama(dtype=torch.float64)
    module.model.layers[1].mlp.down_proj.weight[:] = 0
    model, pair = tiny_model(module), few_pairs()
    cut = found(model, pair, Path("last", "input", (Mlp(1),)), engine)
    whole = found(model, pair, Path("last", "input", (Mlp(2),)), engine)
    assert apart(cut["patched"], cut["base"].expand_as(cut["patched"])) < 1e-12
    assert apart(whole["patched"], whole["base"].expand_as(whole["patched"])) > 1e-4
