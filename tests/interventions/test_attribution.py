"""Attribution: gradient times difference by plain hooks, the exact effects beside it, and how agreement is measured."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.attribution import head_effects
from nnsight_et.methods.attribution.experiment import agreement
from tests.helpers import plain_methods
from tests.helpers.closeness import assert_near, tolerance
from tests.helpers.methods_study import MODELS, models_in, pairs, results
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EVERY = [Head(layer, index) for layer in range(3) for index in range(4)]
PLACES = ["last", "query_label", "previous_query_label"]


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("at", PLACES)
def test_the_estimate_is_gradient_times_difference_by_plain_hooks(model, at, side):
    pair = few_pairs(side=side)
    found = head_effects(model, pair, at, EVERY, "default", Chunks())["attributed"]
    expected = plain_methods.attributed(model.nn._module, pair, at).flatten(0, 1)
    assert found.shape == (12, 3)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("at", PLACES)
def test_exact_effects_are_those_of_patching_each_head_alone(model, at):
    pair = few_pairs()
    found = head_effects(model, pair, at, EVERY, "default", Chunks())["exact"]
    alone = [Circuit((HeadGroup("a", at, (head,)),)) for head in EVERY]
    engine = patched_readouts(model, pair, [*alone, Circuit(())], "reference", Chunks())["probability"]
    torch.testing.assert_close(found, (engine[:-1] - engine[-1]) / engine[-1], **CLOSE)
    module = model.nn._module
    base = plain_methods.probabilities(plain_methods.plain_logits(module, pair.base), pair.answer)
    for row, head in enumerate(EVERY):
        patched = plain_methods.probabilities(plain_methods.patched_logits(module, pair, {at: [head]}), pair.answer)
        torch.testing.assert_close(found[row], (patched - base) / base, **CLOSE)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_in_fp32_both_agree_with_plain_hooks_to_1e_5(kv_heads):
    module, pair = hf_llama(kv_heads=kv_heads), few_pairs()
    found = head_effects(tiny_model(module), pair, "last", EVERY, "default", Chunks())
    assert_near(found["attributed"], plain_methods.attributed(module, pair, "last").flatten(0, 1), size=1)
    base = plain_methods.probabilities(plain_methods.plain_logits(module, pair.base), pair.answer)
    for row, head in enumerate(EVERY):
        patched = plain_methods.probabilities(plain_methods.patched_logits(module, pair, {"last": [head]}), pair.answer)
        assert_near(found["exact"][row], (patched - base) / base, size=1)


def test_a_source_equal_to_the_base_has_no_effect_by_either():
    model, pair = tiny_model(hf_llama()), few_pairs()
    for at in PLACES:
        found = head_effects(model, Pair(pair.base, pair.base, pair.answer), at, EVERY, "default", Chunks())
        assert found["attributed"].abs().max() <= tolerance()
        assert found["exact"].abs().max() <= tolerance()


def test_heads_whose_output_goes_nowhere_have_no_effect_by_either():
    module, pair = hf_llama(dtype=torch.float64), few_pairs()
    module.model.layers[1].self_attn.o_proj.weight[:, 20:30] = 0  # L1H2
    found = head_effects(tiny_model(module), pair, "last", EVERY, "default", Chunks())
    for values in (found["attributed"], found["exact"]):
        still = values.abs().amax(-1) < 1e-12
        assert still.nonzero().tolist() == [[EVERY.index(Head(1, 2))]]


def test_the_estimate_is_exact_for_heads_that_write_almost_nothing():
    """Their effect is so small that the first-order step is the whole step."""
    module, pair = hf_llama(layers=1, dtype=torch.float64), few_pairs()
    module.model.layers[0].self_attn.o_proj.weight.mul_(1e-4)
    found = head_effects(tiny_model(module), pair, "last", EVERY[:4], "default", Chunks())
    assert found["exact"].abs().max() > 1e-5
    second_order = 1e-3 * found["exact"].abs().max().item()
    torch.testing.assert_close(found["attributed"], found["exact"], atol=second_order, rtol=0)


agreed = partial(agreement, "last", gradient="autograd")


def test_agreement_is_worked_out_by_hand():
    attributed = torch.tensor([-4.0, -1.0, 0.0, 1.0])
    exact = torch.tensor([-2.0, -3.0, 0.0, 1.0])
    found = agreed(attributed, exact, top=1)
    # About their means -1 and -1: (-3, 0, 1, 2) and (-1, -2, 1, 2) have products 3 + 0 + 1 + 4, squares 14 and 10.
    assert found.pearson == pytest.approx(8 / 140**0.5)
    # Ranks 0 1 2 3 and 1 0 2 3: 1 - 6 * (1 + 1) / (4 * 15).
    assert found.spearman == pytest.approx(0.8)
    assert (found.top, found.top_found) == (1, 0.0)
    assert agreed(attributed, exact, top=2).top_found == 1.0
    assert agreed(attributed, exact, top=3).top_found == 1.0
    assert agreed(exact, -exact, top=2).top_found == 0.0
    assert agreed(exact, -exact, top=2).pearson == pytest.approx(-1)
    assert agreed(exact, -exact, top=2).spearman == pytest.approx(-1)
    assert agreed(exact.exp(), exact).spearman == pytest.approx(1)
    assert (agreed(exact.exp(), exact).pearson or 1) < 0.95


SCREEN = "  x: {method: attribution, model: one, at: [last, query_label], examples: 9}\n"


def test_a_job_has_both_means_for_every_head_and_their_agreement(tmp_path):
    result = results(models_in(tmp_path), SCREEN)["x"]
    module, pair = MODELS["one"](), pairs(9, "discovery")
    base = plain_methods.probabilities(plain_methods.plain_logits(module, pair.base), pair.answer)
    for row, at in zip(result.header.summary["rows"], ("last", "query_label"), strict=True):
        estimate = plain_methods.attributed(module, pair, at).double().mean(-1)
        assert_near(result.scores[f"{at}.attributed"].flatten(), estimate.flatten(), size=1, dtype=torch.float32)
        exact = result.scores[f"{at}.exact"]
        for head in EVERY:
            patched = plain_methods.probabilities(plain_methods.patched_logits(module, pair, {at: [head]}), pair.answer)
            expected = ((patched - base) / base).double().mean()
            assert_near(exact[head.layer, head.index], expected, size=1, dtype=torch.float32)
        pearson = torch.corrcoef(torch.stack([estimate.flatten(), exact.flatten()]))[0, 1].item()
        assert row["at"] == at
        assert row["pearson"] == pytest.approx(pearson, abs=1e-3)
