"""From a manifest to results: what is computed, in both engines and by plain hooks, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import groupby
from traceback import walk_stack

import pytest
import torch

from nnsight_et.core.batch import collate, padded_batch
from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.core.errors import ExperimentError, ManifestError, TaskError
from nnsight_et.core.metrics import patching_ratio
from nnsight_et.interventions.ablation import random_circuits
from nnsight_et.measuring import model_pool
from nnsight_et.methods.path_patching import experiment as path_patching
from nnsight_et.runner.run import RunOptions
from nnsight_et.tasks.boxes import Boxes
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near, assert_same_scores
from tests.helpers.small_study import fresh_study, results, steps
from tests.helpers.tiny_model import PAD, hf_llama, tokenizer

LAYERS, HEADS, EXAMPLES = 3, 4, 7


def test_the_scores_of_every_stage_are_those_of_plain_hooks(finished):
    found = results(finished)["found"]
    pair = collate(Boxes(2).examples(tokenizer(), EXAMPLES, 3, "discovery"), PAD)
    described = found.header.summary["stages"]
    for stage in described:
        receivers = [Head.parse(name) for name in stage["receivers"]]
        below = max((head.layer for head in receivers), default=LAYERS)
        senders = [Head(layer, index) for layer in range(below) for index in range(HEADS)]
        base, patched = plain_hooks.path_patching(hf_llama(), pair, senders, receivers, stage["via"], stage["at"])
        ratio = torch.zeros(LAYERS * HEADS, EXAMPLES)
        ratio[: len(senders)] = patching_ratio(patched, base)
        one = {name: found.scores[f"{stage['group']}.{name}"] for name in ("score", "per_example", "base", "reach")}
        assert_near(one["base"], base)
        assert_near(one["per_example"].flatten(0, 1), ratio, size=1)
        assert_near(one["score"].flatten(), ratio.mean(-1), size=1)
        assert one["reach"].flatten().nonzero()[:, 0].tolist() == list(range(len(senders)))
        assert not one["score"][~one["reach"]].any()
        best = ratio.mean(-1)[: len(senders)].argsort()[: len(stage["kept"])]
        assert [kept["head"] for kept in stage["kept"]] == [str(senders[i]) for i in best]
    first = [kept["head"] for kept in described[0]["kept"]]
    assert [len(stage["kept"]) for stage in described] == [4, 2, 3, 2]
    assert described[1]["receivers"] == described[3]["receivers"] == first[:2]


def test_a_run_hears_of_each_layer_whose_heads_are_patched_in_every_cell(tmp_path):
    layers: list[int] = []
    fresh_study(tmp_path)
    done = steps(tmp_path, "self_check=off", only=["found"], options=RunOptions(on_layer=layers.append))
    last = dict.fromkeys(step.step for step in done)
    assert list(last) == ["a", "b", "c", "d"]
    found = results(tmp_path)["found"].header.summary["stages"]
    expected: list[int] = []
    for stage in found:
        end = max((Head.parse(name).layer for name in stage["receivers"]), default=LAYERS)
        expected += list(range(end)) * sum(step.step == stage["group"] for step in done)
    assert [layer for layer, _ in groupby(layers)] == [layer for layer, _ in groupby(expected)]


def test_an_intervention_is_at_most_the_fifth_function_from_run(tmp_path, monkeypatch):
    """Whoever reads how a score comes about goes through no more than these."""
    right, found = path_patching.path_probabilities, list[list[str]]()

    def recorded(*arguments):
        frames = [frame for frame, _ in walk_stack(sys._getframe(1))]
        found.append([one.f_code.co_name for one in frames if one.f_globals["__name__"].startswith("nnsight_et.")])
        return right(*arguments)

    monkeypatch.setattr(path_patching, "path_probabilities", recorded)
    steps(fresh_study(tmp_path), "self_check=off", only=["found"])
    assert found
    assert all(stack[-1] == "run" and len(stack) + 1 <= 5 for stack in found), found[0]


def test_the_circuit_has_each_head_once_per_position_the_later_stage_first(finished):
    summary = results(finished)["found"].header.summary
    circuit = Circuit.from_dict(summary["circuit"])
    kept = {stage["group"]: [Head.parse(one["head"]) for one in stage["kept"]] for stage in summary["stages"]}
    assert circuit.group("a").heads == tuple(head for head in kept["a"] if head not in kept["b"])
    assert circuit.group("b").heads == tuple(kept["b"])
    assert circuit.group("c").heads == tuple(kept["c"])


def test_faithfulness_is_that_of_plain_hooks_on_both_models(finished):
    circuit = Circuit.from_dict(results(finished)["found"].header.summary["circuit"])
    circuits = [circuit, *random_circuits(circuit, LAYERS, HEADS, 3, seed=3)]
    pair = collate(Boxes(2).examples(tokenizer(), 9, 3, "evaluation"), PAD)
    others = padded_batch(Boxes(2).prompts(tokenizer(), 8, 3, "ablation"), PAD)
    table, row = results(finished)["table1"], torch.arange(9)
    for line, seed in zip(table.header.summary["rows"], (0, 1), strict=True):
        module = hf_llama(seed=seed)
        means = plain_hooks.mean_head_outputs(module, others)
        kept = [{name: set(one.at(name)) for name in one.positions} for one in circuits]
        alone = torch.stack([plain_hooks.circuit_logits(module, pair.base, means, one) for one in kept])
        whole = plain_hooks.run_model(module, pair.base.tokens, pair.base.mask)[:, -1]
        right = (alone.argmax(-1) == pair.answer).double().mean(-1)
        found = {key: table.scores[f"{line['model']}.circuit.{key}"] for key in ("predicted", "probability")}
        assert torch.equal(found["predicted"], alone.argmax(-1))
        answered = alone.softmax(-1)[:, row, pair.answer]
        torch.testing.assert_close(found["probability"], answered, atol=0, rtol=1e-5)
        assert line["full"] == pytest.approx((whole.argmax(-1) == pair.answer).double().mean().item())
        assert line["circuit"] == pytest.approx(right[0].item())
        assert line["random_mean"] == pytest.approx(right[1:].mean().item())


def test_the_reference_engine_agrees_on_every_score(study):
    assert all(step.reused == 0 for step in steps(study, "engine=reference"))
    for name, one in results(study).items():
        other = results(study, "engine=reference")[name]
        assert_same_scores(one.scores, other.scores, said=name)
        assert one.header.summary.get("circuit") == other.header.summary.get("circuit")


def test_only_runs_what_is_named_and_what_it_needs(study):
    shutil.rmtree(study / "runs")
    assert {step.experiment for step in steps(study, only=["found"])} == {"found"}
    assert {step.experiment for step in steps(study, only=["table1"])} == {"found", "table1"}
    with pytest.raises(ManifestError, match=r"table2.*did you mean 'table1'"):
        steps(study, only=["table2"])


def test_keeping_more_heads_than_the_model_has_is_refused_before_any_work(study, no_model):
    for stage in (0, 1, 2):
        message = rf"experiments.found.stages\[{stage}\].keep: 13 heads, but .*accepted: 1 to \d"
        with pytest.raises(TaskError, match=message):
            steps(study, f"experiments.found.stages.{stage}.keep=13")


def test_keeping_more_heads_than_can_reach_the_receivers_is_refused(study):
    message = r"experiments.found.stages\[1\].keep: 12 heads, but \d can reach a; accepted: 1 to \d"
    with pytest.raises(TaskError, match=message):
        steps(study, "experiments.found.stages.1.keep=12")


def test_a_circuit_for_a_larger_model_is_refused_before_any_work(study, no_model):
    circuit = {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L5H0"]}]}
    (study / "circuit.json").write_text(json.dumps(circuit))
    with pytest.raises(TaskError, match=r"experiments.table1.*one: group a has L5H0; the model has layers L0-L2"):
        steps(study, "experiments.table1.circuit=./circuit.json")


def test_objects_that_are_not_words_of_the_model_are_refused_before_any_work(study, no_model):
    with pytest.raises(TaskError, match="'ice-cream' is not one token"):
        steps(study, "task.objects=[book, car, paper, letter, ice-cream]")


def test_scores_that_are_no_numbers_fail_the_run_instead_of_choosing_heads(study):
    """An answer whose probability underflows to 0 has no (p_patched - p_base) / p_base."""
    certain = hf_llama()
    certain.lm_head.weight *= 400
    certain.save_pretrained(study / "model")
    stages = "experiments.found.stages=[{group: a, into: logits, at: last, keep: 3}]"
    with pytest.raises(ExperimentError, match=r"experiments.found"):
        steps(study, stages, only=["found"])


def test_an_error_of_ours_says_which_experiment_was_running(study, monkeypatch):
    shutil.rmtree(study / "runs")
    monkeypatch.setattr(model_pool, "load_model", lambda *_args, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        steps(study)
    assert "while running table1" in caught.value.__notes__  # its model two is looked at first
