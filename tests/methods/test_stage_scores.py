"""Path patching's numbers per head: their tests against brute force, and the kept heads on held-out examples."""

from __future__ import annotations

from math import log

import pytest
import torch

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import ManifestError
from nnsight_et.core.metrics import patching_ratio
from nnsight_et.core.statistics import effect_p_values
from nnsight_et.manifest import Stage, load
from nnsight_et.measuring.stage_scores import stage_scores, tied_heads
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods.path_patching.experiment import stage_record
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import plan
from nnsight_et.report.results import tables
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_hooks
from tests.helpers.closeness import tolerance
from tests.helpers.small_study import cells, results, steps
from tests.helpers.tiny_model import PAD, hf_llama, tokenizer

EXAMPLES, HELD_OUT = 7, "experiments.found.held_out_examples=5"


def by_group(result, group: str) -> dict[str, torch.Tensor]:
    names = [name for name in result.scores if name.startswith(f"{group}.")]
    return {name.removeprefix(f"{group}."): result.scores[name] for name in names}


@pytest.mark.parametrize("group", ["a", "b", "c", "d"])
def test_the_p_values_of_a_stage_are_of_its_log_ratios_over_the_heads_that_can_reach(finished, group):
    found = by_group(results(finished)["found"], group)
    logs = found["per_example"].double().log1p()  # the ratio is p_patched / p_base - 1
    torch.testing.assert_close(found["log_ratio"], logs.mean(-1), atol=1e-6, rtol=1e-5)
    reach = found["reach"]
    torch.testing.assert_close(found["p"][reach], effect_p_values(logs[reach]), atol=1e-3, rtol=0)
    ascending, adjusted = sorted(found["p"][reach].tolist()), 0.0
    for rank, p in enumerate(ascending):
        adjusted = min(1, max(adjusted, p * (len(ascending) - rank)))
        assert (found["p_holm"][found["p"] == p]).tolist()[-1] >= adjusted - 1e-12
    assert found["p_holm"][reach].min().item() == pytest.approx(min(1, ascending[0] * len(ascending)))
    assert (found["p_bh"][reach] <= found["p_holm"][reach] + 1e-12).all()
    for name in ("p", "p_holm", "p_bh"):
        assert torch.equal(~found[name].isnan(), reach)


def test_a_head_beyond_chance_is_told_from_a_kept_one():
    """L1H1 halves the answer's probability every time, L0H1 now and then undoes it, L1H0 doubles it."""
    base, noise = torch.full((60,), 0.25), torch.randn(60, generator=torch.Generator().manual_seed(0))
    effects = torch.stack([torch.zeros(60), 3 * noise - 0.4 - 3 * noise.mean(), torch.ones(60), -torch.ones(60)])
    senders = [Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)]
    probabilities = {"base": base, "patched": (base.log() + log(2) * effects).exp()}
    found = stage_scores(probabilities, senders, Shape(3, 2, 2, 4, 8, 16, 50), 2, seed=0)
    stage = Stage(group="a", into="logits", at="last", keep=2)
    record = stage_record(stage, (), [Head(1, 1), Head(0, 0)], found)
    assert [one.beyond_chance for one in record.kept] == [True, False]
    assert record.beyond_chance == record.beyond_chance_bh == ["L1H1"]
    assert record.tested == 4
    assert found["p"][1, 0] > 1 - 1e-6
    assert found["p"][1, 1] < 1e-6
    assert 0.01 < found["p"][0, 1] < 0.9
    assert found["p"][0, 0] == 1
    assert found["p_holm"][2].isnan().all()
    assert not found["score"][2].any()


def test_heads_at_the_cut_within_rounding_are_ties():
    score = torch.tensor([[-0.9, -0.5, -0.5 + 9e-6], [-0.5 + 1.1e-5, -0.4, -0.5 - 5e-6]], dtype=torch.float64)
    ranked = [Head(0, 0), Head(1, 2), Head(0, 1), Head(0, 2), Head(1, 0), Head(1, 1)]
    assert tied_heads(score, ranked, 3, "float32") == ["L0H2"]
    assert tied_heads(score, ranked, 2, "float32") == ["L0H1"]
    assert (
        tied_heads(score, ranked, 1, "float32")
        == tied_heads(score, ranked, 4, "float64")
        == tied_heads(score, ranked, 6, "float32")
        == []
    )
    assert tied_heads(score, ranked, 4, "float32") == ["L1H0"]
    assert tied_heads(score, ranked, 0, "float32") == []
    assert tied_heads(score, ranked, 3, "bfloat16") == ["L0H2", "L1H0"]
    assert tied_heads(1000 * score, ranked, 3, "float32") == []  # 0.009 of 500
    assert tied_heads(1000 * score, ranked, 3, "float64") == []


def test_two_heads_that_are_alike_are_a_tie_in_result_and_report(tmp_path):
    """L2H3 is made a copy of L2H1, whose key and value head it gets too: their scores differ by rounding at most."""
    module = hf_llama(seed=0, kv_heads=4)
    attention = module.model.layers[2].self_attn
    size = module.config.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(attention, name).weight
        weight[3 * size : 4 * size] = weight[size : 2 * size]
    attention.o_proj.weight[:, 3 * size : 4 * size] = attention.o_proj.weight[:, size : 2 * size]
    module.save_pretrained(tmp_path / "one")
    tokenizer().save_pretrained(tmp_path / "one")
    text = """\
name: twins
seed: 1
models: {one: {path: one}}
task: {kind: boxes, boxes: 3}
experiments:
  found:
    method: path_patching
    model: one
    examples: 5
    stages:
      - {group: a, into: logits, at: last, keep: %d, receivers: %d}
      - {group: b, into: a, via: query, at: last, keep: 1}
"""
    (tmp_path / "study.yaml").write_text(text % (12, 12))
    order = kept_of(tmp_path, "a")
    first, second = sorted((order.index("L2H1"), order.index("L2H3")))
    assert second == first + 1
    (tmp_path / "study.yaml").write_text(text % (first + 1, first + 1))
    result = results_with(tmp_path, "seed=1")
    assert [stage["tied"] for stage in result.header.summary["stages"]] == [[order[second]], []]
    assert f"Tied with the last kept head of a, to within rounding: {order[second]}." in tables(result.header)[0].note
    (tmp_path / "study.yaml").write_text(text % (12, first + 1))
    result = results_with(tmp_path, "seed=1")
    assert [stage["tied_receivers"] for stage in result.header.summary["stages"]] == [[], [order[second]]]
    assert f"Tied with the last receiver in a, to within rounding: {order[second]}." in tables(result.header)[0].note


def kept_of(root, group: str) -> list[str]:
    stages = results_with(root, "seed=1").header.summary["stages"]
    return next(heads_of(stage) for stage in stages if stage["group"] == group)


def test_the_summary_says_which_heads_are_beyond_chance_and_how_firmly_they_are_kept(finished):
    result = results(finished)["found"]
    assert result.header.summary["test"]["level"] == 0.05
    for stage in result.header.summary["stages"]:
        found = by_group(result, stage["group"])
        assert stage["tested"] == int(found["reach"].sum())
        for key, name in (("beyond_chance", "p_holm"), ("beyond_chance_bh", "p_bh")):
            beyond = {str(Head(*place)) for place in (found[name] <= 0.05).nonzero().tolist()}
            assert set(stage[key]) == beyond
        for kept in stage["kept"]:
            assert kept["beyond_chance"] == (kept["head"] in stage["beyond_chance"]) == (kept["p_holm"] <= 0.05)
            assert kept["p"] <= kept["p_bh"] <= kept["p_holm"]
            head = Head.parse(kept["head"])
            assert kept["selection_frequency"] == found["selection_frequency"][head].item()
        assert found["selection_frequency"].sum().item() == pytest.approx(len(stage["kept"]))
        assert not found["selection_frequency"][~found["reach"]].any()
        assert 0 < stage["stability"] <= 1


def test_held_out_scores_are_those_of_plain_hooks_on_the_evaluation_split(study):
    before = results(study)["found"]
    found = results_with(study, HELD_OUT)
    pair = collate(Boxes(2).examples(tokenizer(), 5, 3, "evaluation"), PAD)
    for stage, old in zip(found.header.summary["stages"], before.header.summary["stages"], strict=True):
        kept, receivers = ([Head.parse(name) for name in names] for names in (heads_of(stage), stage["receivers"]))
        assert heads_of(stage) == heads_of(old)
        held_out = found.scores[f"{stage['group']}.held_out_score"]
        base, patched = plain_hooks.path_patching(hf_llama(), pair, sorted(kept), receivers, stage["via"], stage["at"])
        ratio = patching_ratio(patched, base).double()
        for head, values in zip(sorted(kept), ratio, strict=True):
            assert held_out[head].item() == pytest.approx(values.mean().item(), abs=tolerance())
        for one in stage["kept"]:
            assert one["held_out_score"] == held_out[Head.parse(one["head"])].item()
            assert one["held_out_low"] <= one["held_out_score"] <= one["held_out_high"]
        assert held_out.isnan().sum() == held_out.numel() - len(kept)
    for name, values in before.scores.items():
        torch.testing.assert_close(found.scores[name], values, atol=0, rtol=0, equal_nan=True)
    assert found.header.data_digest != before.header.data_digest
    assert before.header.data_digest == data_digest(Boxes(2).examples(tokenizer(), EXAMPLES, 3, "discovery"))


def test_only_the_held_out_examples_are_measured_anew_and_only_once(study):
    first = [step for step in steps(study, HELD_OUT, only=["found"]) if step.done == step.total]
    assert [step.step for step in first] == [f"{group}{more}" for group in "abcd" for more in ("", " held out")]
    assert all(step.reused == (0 if "held out" in step.step else step.total) for step in first)
    kept = cells(study)
    fewer = list(steps(study, HELD_OUT, "experiments.found.stages.3.receivers=1", only=["found"]))
    assert all(step.reused == step.done for step in fewer)
    assert cells(study) == kept


def test_a_run_stopped_among_the_held_out_examples_ends_with_the_same_scores(study):
    whole = results_with(study, HELD_OUT).scores
    going = run(plan(load(study / "study.yaml", [HELD_OUT])), study / "runs", only=["found"], fresh=True)
    while "held out" not in next(going).step:
        pass
    going.close()  # type: ignore[attr-defined]
    again = results_with(study, HELD_OUT).scores
    assert again.keys() == whole.keys()
    for name, values in whole.items():
        torch.testing.assert_close(again[name], values, atol=0, rtol=0, equal_nan=True)


def test_a_number_of_held_out_examples_is_0_or_more(study):
    with pytest.raises(ManifestError, match=r"held_out_examples: found -1; accepted: 0 or more"):
        load(study / "study.yaml", ["experiments.found.held_out_examples=-1"])


def heads_of(stage: dict) -> list[str]:
    return [one["head"] for one in stage["kept"]]


def results_with(root, setting: str):
    steps(root, setting)
    return results(root, setting)["found"]
