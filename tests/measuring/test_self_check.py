"""The checks inside every run: what they look at, what they stop, and what a result says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine import suffix
from nnsight_et.interventions import ablation, engine_checks, path_patching
from nnsight_et.interventions.engine_checks import engine_errors, row_gap
from nnsight_et.measuring.checks import _largest_gaps
from nnsight_et.measuring.tolerance import difference
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from tests.helpers.methods_study import UNCHECKED, guessing, manifest, models_in, results, steps
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model, tokenizer

ONE = "  found: {method: path_patching, model: one, examples: 6, stages: [%s]}\n"
DIRECT = ONE % "{group: a, into: logits, at: last, keep: 2}"
TWO = ONE % (
    "{group: a, into: logits, at: last, keep: 2, receivers: 2}, "
    "{group: b, into: a, via: value, at: query_label, keep: 2}"
)
ALONE = "  table: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 6, ablation_examples: 5}\n"
FIRST_STEPS = {
    "found": 2, "table": 4, "pruned": 1, "complete": 2, "masks": 1, "roles": 2, "across": 3, "blind": 5, "looks": 1,
    "screen": 1, "mlps": 2, "graph": 1,
}  # fmt: skip
"""How many steps of an experiment do something to a model for the first time."""
OWN_CHECKS = {
    "found": {"recount"}, "table": {"means", "recount"}, "pruned": {"recount"}, "complete": {"recount"},
    "masks": {"mask gradient", "mask training", "recount"}, "across": {"donation", "recount"}, "blind": {"recount"},
    "mlps": {"recount", "paths into MLPs"},
}  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    return models_in(tmp_path)


def test_every_experiment_with_a_model_is_checked_and_its_result_says_how_well(everything):
    for name, result in everything.items():
        checks = result.header.self_check.checks
        assert result.header.self_check.on is True
        if name == "overlap":
            assert {check.check for check in checks} == {"manifest", "decisions", "recount"}
            continue
        again = [check for check in checks if check.check == "reference engine"]
        assert sum(check.cells for check in again) >= 4
        assert {"writes", "padding", "heads of values", "out of reach"} <= {check.check for check in checks}
        steps_checked = [check.step for check in again]
        assert len(steps_checked) >= FIRST_STEPS[name], steps_checked
        assert OWN_CHECKS.get(name, set()) <= {check.check for check in checks}
        assert all(0 <= check.worst <= check.tolerance for check in checks)


def test_a_sample_that_differs_stops_the_experiment_and_nothing_of_it_is_written(root, monkeypatch):
    right = path_patching._effects

    def wrong(*arguments):
        found = right(*arguments)
        return found | {"patched": found["patched"] * 1.01}

    monkeypatch.setattr(path_patching, "_effects", wrong)
    monkeypatch.setattr("nnsight_et.measuring.checks.engine_errors", lambda *_: {})
    with pytest.raises(ExperimentError, match="found: self-check 'reference engine', step a, cells 4: found a diff"):
        steps(root, DIRECT)
    assert not (folder_of(root / "runs", plan(manifest(root, DIRECT))) / "found").exists()


@pytest.mark.parametrize("study", [DIRECT, TWO, ALONE], ids=["direct", "values", "ablation"])
def test_a_fault_in_what_all_engines_share_is_found(root, monkeypatch, study):
    """Key and value heads counted the wrong way: the reference engine counts them so too, and agrees."""
    monkeypatch.setattr(Model, "receiver", lambda self, index, via: index % self.heads_of(via))
    with pytest.raises(ExperimentError, match=r"self-check 'heads of keys', model one: found a difference of"):
        steps(root, study)


def test_an_edit_that_is_not_applied_stops_the_run(monkeypatch):
    model, pair = tiny_model(hf_llama()), few_pairs()
    monkeypatch.setattr(suffix, "SITES", ("query", "key", "value"))
    path = path_patching.Path("last", "query", (Head(2, 0),))
    with pytest.raises(ExperimentError, match="0 of 3 edits applied"):
        ablation.remainder_readouts(
            model, pair.question, ablation.AblationValues(), [all_heads()], "default", suffix.Chunks()
        )
    assert path_patching.path_probabilities(model, pair, path, [Head(0, 0)], "default", suffix.Chunks())


def all_heads() -> ablation.Circuit:
    return ablation.Circuit((ablation.HeadGroup("a", "last", (ablation.Head(0, 0),)),))


def test_without_checks_the_result_says_so_and_is_checked_as_soon_as_it_is_asked_for(root):
    unchecked = results(root, DIRECT, UNCHECKED)["found"]
    assert unchecked.header.self_check.to_dict() == {"on": False, "checks": [], "seconds": 0}
    assert all(step.reused == step.total for step in steps(root, DIRECT))
    checked = results(root, DIRECT)["found"]
    assert checked.header.self_check.checks
    assert checked.header.identity == unchecked.header.identity
    assert torch.equal(checked.scores["a.score"], unchecked.scores["a.score"])


def test_differences_are_of_logarithms_where_numbers_are_probabilities():
    one = {"probability": torch.tensor([1e-6, 0.5]), "logit": torch.tensor([10.0, 1.0])}
    other = {"probability": torch.tensor([2e-6, 0.5]), "logit": torch.tensor([11.0, 1.0])}
    assert difference(one, one) == 0
    assert difference(one, other) == pytest.approx(0.6931, abs=1e-4)  # log 2, and 1 / 11
    assert difference({"logit": one["logit"]}, {"logit": other["logit"]}) == pytest.approx(1 / 11)
    assert difference({"predicted": torch.tensor([1])}, {"predicted": torch.tensor([2])}) == float("inf")
    assert difference({"logit": torch.tensor([torch.nan])}, {"logit": torch.tensor([1.0])}) == float("inf")


def test_probabilities_too_small_for_their_dtype_are_not_told_apart_and_larger_ones_are():
    none, small = ({"probability": torch.tensor([one])} for one in (0.0, 3e-45))
    assert difference(none, small) == 0
    assert difference(none, {"probability": torch.tensor([1e-37])}) > 1
    wide = [{"probability": torch.tensor([one], dtype=torch.float64)} for one in (3e-45, 6e-45)]
    assert difference(*wide) == pytest.approx(0.6931, abs=1e-4)


OBJECT = tokenizer().convert_tokens_to_ids("letter")
NO_CHANCE = {
    "path patching": (DIRECT, r"experiments.found.stages\[0\]: the answer's probability in the base run is 0 or below"),
    "attribution": (
        "  found: {method: attribution, model: one, examples: 6}\n",
        "experiments.found.at: last: the answer's probability in the base run is 0 or below",
    ),
    "by another metric": (DIRECT.replace("stages", "metric: kl, stages"), ""),
    "faithfulness": (ALONE, ""),
}


@pytest.mark.parametrize("method", NO_CHANCE)
def test_an_answer_without_a_chance_fails_no_check_and_is_refused_where_shares_of_it_are_taken(method, tmp_path):
    root, module = models_in(tmp_path), guessing(1)
    module.lm_head.weight[:2] = 1e5 * module.lm_head.weight[OBJECT] * torch.tensor([[1.0], [-1.0]])  # one is above all
    module.save_pretrained(root / "one")
    study, refusal = NO_CHANCE[method]
    if not refusal:
        (result,) = results(root, study).values()
        assert {"source = base", "paths into queries"} <= {one.check for one in result.header.self_check.checks}
        return
    with pytest.raises(ExperimentError, match=rf"{refusal} 1\.2e-38 in float32, in 6 of 6 prompts, such as .* after "):
        steps(root, study)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_must_hold_of_any_model_holds_of_models_that_are_right(kv_heads, dtype):
    model = tiny_model(hf_llama(kv_heads=kv_heads, attention_bias=True, dtype=dtype))
    errors = engine_errors(model, few_pairs())
    limit = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.25}[dtype]
    exact = ("reference: source = base", "out of reach", "heads of queries", "heads of keys", "heads of values", "fill")
    vias = ("queries", "keys", "values", "MLPs")
    named = {"writes", "padding", "source = base", "sources", *exact, *(f"paths into {via}" for via in vias)}
    assert set(errors) - {"all heads"} == named
    assert all(errors[name] == 0 for name in exact)
    assert max(errors.values()) < limit


CANCELLED = 50.0


def large_model(lost: float = 0.0):
    """A random model of the size of real ones: 4096 times as large, 1e5 at the first token, and sums that cancel.

    What it says is what it would say if it were small: norms undo its size. In channel 9 all heads write little.
    """
    module, size = hf_llama(attention_bias=True), 4096
    with torch.no_grad():
        module.model.embed_tokens.weight *= size
        module.model.embed_tokens.weight[0, 0] = 1e5
        for layer in module.model.layers:
            attention = layer.self_attn
            for weight in (attention.o_proj.weight, attention.o_proj.bias, layer.mlp.down_proj.weight):
                weight *= size
            attention.v_proj.bias += CANCELLED
            of_heads = attention.o_proj.weight.unflatten(-1, (4, 10))
            of_heads -= of_heads.mean(-1, keepdim=True)  # the bias of the values, which all have, cancels in each head
            attention.o_proj.weight[9] *= 1e-7
            attention.o_proj.bias[9] = lost
    return tiny_model(module)


def test_large_rows_pass_every_check_of_a_model(monkeypatch):
    errors = engine_errors(large_model(), few_pairs())
    assert max(errors.values()) < 1e-4, errors
    monkeypatch.setattr(engine_checks, "relative", lambda difference, size: difference.double().abs().max())
    assert engine_errors(large_model(), few_pairs())["writes"] > 1e-2  # of numbers some of which are smaller than 1


def test_a_small_fault_beside_large_numbers_is_found(monkeypatch):
    """A bias of 0.002 is lost in one channel; in the others the same row has thousands."""
    right = Model.write_of

    def without_bias(self, layer, z):
        written = right(self, layer, z)
        return torch.cat([written[..., :9], written[..., 9:10] - 0.002, written[..., 10:]], -1)

    model, pair = large_model(lost=0.002), few_pairs()
    assert engine_errors(model, pair)["writes"] < 1e-4
    monkeypatch.setattr(Model, "write_of", without_bias)
    assert engine_errors(model, pair)["writes"] > 1e-2


def test_rows_are_held_against_their_own_size():
    large, small = torch.tensor([3e4, -1e5, 0.5]), torch.tensor([0.5, -0.25, 0.0])
    expected = torch.stack([large, small])
    assert row_gap(expected, expected) == 0
    assert row_gap(expected + torch.tensor([[0.1], [0.0]]), expected) < 2e-6
    assert row_gap(expected + torch.tensor([[0.0], [0.1]]), expected) == pytest.approx(0.1)
    assert row_gap(expected.bfloat16(), expected.bfloat16()) == 0


def test_a_lost_bias_is_seen_in_the_sum_of_writes(monkeypatch):
    module = hf_llama(attention_bias=True)
    with torch.no_grad():
        module.model.layers[0].self_attn.o_proj.bias.fill_(0.5)
    model = tiny_model(module)
    right = Model.attention_of

    def without_bias(self, layer, z):
        return right(self, layer, z) - right(self, layer, torch.zeros_like(z))

    monkeypatch.setattr(Model, "attention_of", without_bias)
    assert engine_checks.engine_errors(model, few_pairs())["writes"] > 0.1


def test_in_half_precision_a_sample_that_is_right_by_chance_leaves_room_for_rounding_and_none_for_a_fault():
    exact = {"effect": torch.tensor([[0.5, -1.0]])}
    lucky, epsilon = [exact, exact], torch.finfo(torch.bfloat16).eps
    for apart, passes in ((0.1, True), (0.3, False)):
        found = {"effect": exact["effect"] + apart}
        worst, tolerance = _largest_gaps(found, lucky, "bfloat16", n_layers=18)
        assert tolerance == pytest.approx(4 * 6 * epsilon + epsilon)
        assert (worst <= tolerance) is passes
