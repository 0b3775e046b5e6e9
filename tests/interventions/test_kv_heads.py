"""Keys and values that query heads share: patched for all of them, or for the receivers alone.

The second is held against a model without sharing: every query head gets a copy of its group's keys and values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import ManifestError
from nnsight_et.core.metrics import patching_score
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.one_token import Receivers
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.families import FAMILIES
from tests.helpers import plain_hooks
from tests.helpers.architectures import configuration, hf_model
from tests.helpers.closeness import assert_near
from tests.helpers.methods_study import MODELS, manifest, models_in, pairs, results
from tests.helpers.tiny_model import few_pairs, tiny_model

QUICKER, SLOW = ("Llama 3 (GQA)", "Gemma-2"), ("Llama (MQA)", "Qwen3", "Mixtral")
ENGINES = ("default", "reference")
PATHS = {
    "key": Path("query_label", "key", (Head(1, 3), Head(2, 0), Head(2, 1)), "expanded"),
    "value": Path("query_label", "value", (Head(2, 2), Head(1, 0)), "expanded"),
    "value of two in a group": Path("previous_query_label", "value", (Head(1, 2), Head(1, 3)), "expanded"),
    "key at last": Path("last", "key", (Head(2, 1),), "expanded"),
}


def dense(name: str) -> Any:
    """The same function with as many key heads as query heads: each a copy of its group's."""
    module = hf_model(name)
    config = configuration(name, num_key_value_heads=4)
    config.tie_word_embeddings = False
    attention = FAMILIES[config.model_type].implementations[0]
    wide: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().requires_grad_(False)
    weights = module.state_dict()
    for key, value in weights.items():
        if ".k_proj." in key or ".v_proj." in key:
            heads = value.unflatten(0, (-1, plain_hooks.sizes(module)[2]))
            weights[key] = heads.repeat_interleave(4 // len(heads), 0).flatten(0, 1)
    wide.load_state_dict(weights)
    return wide


def by_engine(model, path: Path, engine: str = "default", chunks: Chunks | None = None) -> dict[str, Tensor]:
    senders = path.reaching(model.n_layers, model.n_heads)
    return path_probabilities(model, few_pairs(), path, senders, engine, chunks or Chunks())


def made(name: str):
    module = hf_model(name)
    return tiny_model(module, FAMILIES[module.config.model_type].implementations[0])


@pytest.mark.parametrize("name", [*QUICKER, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_expanded_is_what_a_model_without_shared_heads_does(name):
    wide, model, pair = dense(name), made(name), few_pairs()
    logits = [plain_hooks.run_model(one, pair.base.tokens, pair.base.mask) for one in (wide, model.nn._module)]
    assert_near(logits[0], logits[1])
    for path in PATHS.values() if name == QUICKER[0] else (PATHS["key"], PATHS["value"]):
        senders = path.reaching(3, 4)
        base, expected = plain_hooks.path_patching(wide, pair, senders, path.receivers, path.via, path.at)
        for engine in ENGINES:
            found = by_engine(model, path, engine)["patched"]
            assert (found.log() - expected.log()).abs().max() < 1e-5
        shared = by_engine(model, replace(path, kv_heads="shared"))["patched"]
        whole = len({head.layer for head in path.receivers}) * model.n_heads
        if len(path.receivers) < whole and path != PATHS["value of two in a group"]:
            assert (shared.log() - expected.log()).abs().max() > 1e-4
        assert (expected.log() - base.log()).abs().max() > 1e-3


def test_receivers_that_are_whole_groups_make_no_difference():
    model, path = made("Llama 3 (GQA)"), PATHS["value of two in a group"]
    one, other = (by_engine(model, replace(path, kv_heads=kind))["patched"] for kind in ("shared", "expanded"))
    assert_near(one, other)


def test_two_heads_of_a_group_differ_only_if_expanded():
    model = made("Llama 3 (GQA)")
    shared = [Path("query_label", "value", (Head(2, index),)) for index in (0, 1)]
    for paths, alike in ((shared, True), ([replace(path, kv_heads="expanded") for path in shared], False)):
        one, other = (by_engine(model, path)["patched"] for path in paths)
        assert torch.equal(one, other) == alike


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_source_equal_to_the_base_changes_nothing(path, engine):
    model, pair = made("Llama 3 (GQA)"), few_pairs()
    null = replace(pair, source=pair.base)
    found = path_probabilities(model, null, path, path.reaching(3, 4), engine, Chunks())
    assert (found["patched"] / found["base"] - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    "chunks",
    [Chunks(tokens=1), Chunks(branch_tokens=1), Chunks(branch_tokens=1 << 16), Chunks(tokens=3 * 9 * 23)],
    ids=["one a pass", "rows", "branches", "uneven rows"],
)
def test_chunk_sizes_do_not_matter(chunks):
    model = made("Llama 3 (GQA)")
    for path in (PATHS["key"], PATHS["value"]):
        one, other = by_engine(model, path)["patched"], by_engine(model, path, chunks=chunks)["patched"]
        assert_near(one, other)


def test_where_every_query_head_has_its_own_nothing_is_expanded():
    model = made("Llama 1, 2 (MHA)")
    heads = (Head(2, 3), Head(1, 0))
    assert Receivers.of(model, heads, "key", "expanded").seen_by == {}
    grouped = made("Llama 3 (GQA)")
    assert Receivers.of(grouped, heads, "query", "expanded").seen_by == {}
    seen = Receivers.of(grouped, (*heads, Head(2, 2)), "key", "expanded")
    assert {layer: heads.tolist() for layer, heads in seen.seen_by.items()} == {1: [0], 2: [2, 3]}
    assert {layer: heads.tolist() for layer, heads in seen.heads.items()} == {1: [0], 2: [1]}


EXPERIMENT = """\
  found:
    method: path_patching
    model: one
    examples: 5
    stages:
      - {group: a, into: logits, at: last, keep: 3, receivers: 1}
      - {group: b, into: a, via: value, at: query_label, keep: 2}
"""


def test_a_manifest_asks_for_it_by_stage_and_the_result_says_so(tmp_path):
    root = models_in(tmp_path)
    expanded = EXPERIMENT.replace("keep: 2", "keep: 2, kv_heads: expanded")
    one = results(root, EXPERIMENT)["found"]
    other = results(root, expanded)["found"]
    assert [stage["kv_heads"] for stage in one.header.summary["stages"]] == ["shared", "shared"]
    assert [stage["kv_heads"] for stage in other.header.summary["stages"]] == ["shared", "expanded"]
    assert other.header.summary["query_heads_per_kv_head"] == 2
    assert torch.equal(one.scores["a.score"], other.scores["a.score"])
    receiver = Head.parse(other.header.summary["stages"][1]["receivers"][0])
    path = Path("query_label", "value", (receiver,), "expanded")
    pair = pairs(5, "discovery")
    found = path_probabilities(tiny_model(MODELS["one"]()), pair, path, path.reaching(3, 4), "reference", Chunks())
    score = patching_score(found["patched"], found["base"])
    reached = other.scores["b.reach"]
    assert_near(other.scores["b.score"][reached], score, size=1)
    assert (one.scores["b.score"] - other.scores["b.score"]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("{group: b, into: a, via: query, at: last, keep: 2, kv_heads: expanded}", "expanded via query"),
        ("{group: b, into: logits, at: last, keep: 2, kv_heads: expanded}", "expanded into logits"),
    ],
)
def test_where_there_is_nothing_to_expand_it_is_refused(stage, told):
    text = EXPERIMENT.replace("{group: b, into: a, via: value, at: query_label, keep: 2}", stage)
    with pytest.raises(ManifestError, match=rf"stages.1.kv_heads: {told}.*accepted: shared"):
        manifest(Folder(), text)
