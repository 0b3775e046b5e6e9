"""A gradient's estimates beside small steps along the paths themselves, and what they are where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.core.metrics import patching_effect
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.engine import shared_runs
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import component_outputs
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from tests.helpers.tiny_model import PAD, few_examples, hf_llama, tiny_model

PATHS = (
    Path("last"),
    Path("last", "query", (Head(1, 0), Head(2, 1))),
    Path("query_label", "value", (Head(2, 0),)),
    Path("query_label", "key", (Head(1, 2), Head(2, 3)), "expanded"),
    Path("last", "input", (Mlp(2),)),
)
FOILS, PART = ((3, 4), (5,), (6,)), 3e-3


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


def examples(metric: Metric):
    made = [replace(one, foils=foils) for one, foils in zip(few_examples((2, 3, 2), 0), FOILS, strict=True)]
    return replace(collate(made, PAD), metric=metric)


@pytest.mark.parametrize("metric", ["probability_ratio", "logit_difference"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.via} {path.kv_heads}")
def test_an_estimate_is_what_a_small_part_of_the_way_does(model, path: Path, metric: Metric, monkeypatch):
    pair, senders = examples(metric), path.reaching(model.n_layers, model.n_heads)
    found = screened_probabilities(model, pair, path, senders, "default", Chunks())
    exact = path_probabilities(model, pair, path, senders, "default", Chunks())
    assert all(torch.equal(found[name], exact[name]) for name in exact)

    moved, name = [], "" if metric == DEFAULT_METRIC else "_value"
    for part in (PART, -PART):

        def go_a_part(model, run, wanted, part=part):
            ((end, base),) = component_outputs(model, pair.base, wanted).items()
            source = component_outputs(model, pair.source, wanted)[end]
            return {end: {layer: z + part * (source[layer] - z) for layer, z in base.items()}}

        monkeypatch.setattr(shared_runs, "component_outputs", go_a_part)
        step = screened_probabilities(model, pair, path, senders, "default", Chunks())
        moved.append(patching_effect(step[f"patched{name}"], step[f"base{name}"], metric))
        torch.testing.assert_close(step["estimate"] / part, found["estimate"], rtol=1e-6, atol=1e-12)
    slope = (moved[0] - moved[1]) / (2 * PART)
    assert slope.abs().max() > 1e-3
    torch.testing.assert_close(found["estimate"][0], slope, rtol=1e-2, atol=1e-2 * slope.abs().max().item())


def test_some_senders_are_measured_and_all_are_estimated(model):
    pair, path = examples(DEFAULT_METRIC), PATHS[1]
    senders = path.reaching(model.n_layers, model.n_heads)
    every = screened_probabilities(model, pair, path, senders, "default", Chunks())
    some = screened_probabilities(model, pair, path, senders[2:4], "default", Chunks())
    torch.testing.assert_close(some["patched"], every["patched"][2:4])
    torch.testing.assert_close(some["estimate"], every["estimate"])
    alone = screened_probabilities(model, pair, path, senders[2:4], "reference", Chunks())
    torch.testing.assert_close(alone["patched"], some["patched"])
    torch.testing.assert_close(alone["estimate"], some["estimate"])


def test_where_gradients_do_not_pass_estimates_are_nothing(model):
    path = PATHS[0]
    blind, senders = replace(model, gradients=False), path.reaching(model.n_layers, model.n_heads)[:2]
    found = screened_probabilities(blind, examples(DEFAULT_METRIC), path, senders, "default", Chunks())
    assert found["estimate"].eq(0).all()
    assert found["patched"].isfinite().all()
