"""The logits of a few words alone: those of the whole unembedding, whatever a model does with its logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head, HeadGroup
from nnsight_et.core.named_metrics import Metric
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from tests.engine.test_work_counts import counted
from tests.helpers.architecture_table import made
from tests.helpers.tiny_model import PAD, few_examples, hf_llama, tiny_model

KINDS = ("Llama 1, 2 (MHA)", "GPT-2", "Gemma-2", "Command R7B", "Granite 3", "Phi-1, Phi-2")
"""Plain; tied; logits that are capped; multiplied; divided; with a bias."""
FOILS = ((3, 4), (5,), (6, 7, 8))
PATHS = (
    Path("last"),
    Path("query_label", "value", (Head(2, 0),)),
    Path("query_label", "key", (Head(2, 3),), "expanded"),
)
FEW = Chunks(tokens=60, branch_tokens=16)  # several passes, rows and branches


def examples(metric: Metric = "logit_difference"):
    some = [replace(one, foils=foils) for one, foils in zip(few_examples((2, 3, 2), 0), FOILS, strict=True)]
    return replace(collate(some, PAD), metric=metric)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_words_have_the_logits_of_the_whole_unembedding(kind: str):
    _, model = made(kind)
    assert model.has_plain_head
    for path in PATHS:
        senders = path.reaching(model.n_layers, model.n_heads, model.parallel)
        whole, few = (
            screened_probabilities(replace(model, reads_words=words), examples(), path, senders, "default", FEW)
            for words in (False, True)
        )
        assert set(whole) - set(few) == {"patched"}
        scale = (whole["patched_value"] - whole["base_value"]).abs().max()
        for name, tolerance in (("patched_value", 2e-5), ("base_value", 0), ("estimate", 1e-3 * scale)):
            torch.testing.assert_close(few[name], whole[name], rtol=1e-5, atol=float(tolerance))


@pytest.fixture(scope="module")
def model():
    return replace(tiny_model(hf_llama()), reads_words=True)


@pytest.mark.parametrize("metric", ["probability_ratio", "probability_difference", "kl"])
def test_metrics_of_probabilities_take_all_words(model, metric: Metric):
    senders = PATHS[0].reaching(model.n_layers, model.n_heads)
    with counted(model) as found:
        outcome = path_probabilities(model, examples(metric), PATHS[0], senders, "default", Chunks())
    assert found["logits"] == 3 * (1 + len(senders))
    assert "patched" in outcome


def test_the_whole_vocabulary_is_multiplied_out_for_base_runs_alone(model):
    senders = PATHS[1].reaching(model.n_layers, model.n_heads)
    with counted(model) as found:
        path_probabilities(model, examples(), PATHS[1], senders, "default", Chunks())
    assert found["logits"] == 3


def test_masks_are_trained_on_the_targets_logits_alone(model):
    """The base runs of training and validation have all logits, and so have the validated masks; steps have one."""
    pair, group = examples(), HeadGroup("values", "query_label", (Head(0, 0), Head(2, 3)))
    outcomes = []
    for words in (False, True):
        with counted(replace(model, reads_words=words)) as found:
            training = Training(validate_every=1, learning_rate=1e-6)  # so short that all masks round to one
            outcomes += trained_masks(replace(model, reads_words=words), [group], training, [pair], [pair], Chunks())
        assert found["logits"] == 3 * (1 + 1 + 1 + (0 if words else training.epochs))
    whole, few = outcomes
    assert whole["gradients"].abs().max() > 0
    torch.testing.assert_close(few["gradients"], whole["gradients"], rtol=1e-5, atol=1e-7)
    assert torch.equal(few["accuracies"], whole["accuracies"])


def test_an_unembedding_that_is_more_than_a_linear_layer_is_run_whole():
    class Adapted(nn.Linear):
        pass

    module = hf_llama()
    head = module.lm_head
    module.lm_head = Adapted(head.in_features, head.out_features, bias=False)
    assert not tiny_model(module).has_plain_head
