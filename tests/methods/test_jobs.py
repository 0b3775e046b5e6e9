"""Every method from a manifest to its result, in both engines; a run again, stopped, or set otherwise; refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ExperimentError, TaskError
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods import METHODS
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result
from nnsight_et.runner.run import run
from tests.helpers import plain_methods
from tests.helpers.closeness import assert_same_scores
from tests.helpers.methods_study import EVERYTHING, MODELS, SEED, TASK, UNCHECKED, manifest, models_in, results, steps
from tests.helpers.tiny_model import PAD, tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return models_in(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def copy(all_methods, tmp_path) -> Path:
    """The finished study, to change."""
    return shutil.copytree(all_methods, tmp_path / "jobs")


def rows(result: Result) -> list[dict]:
    return result.header.summary["rows"]


def test_every_method_ends_with_a_result_whose_numbers_exist(everything):
    assert {result.header.job.spec.method for result in everything.values()} == set(METHODS)
    for name, result in everything.items():
        assert bool(result.scores) == (name != "overlap")
        for key, values in result.scores.items():
            group, _, number = key.rpartition(".")
            exists = result.scores[f"{group}.reach"] if number in ("p", "p_holm", "p_bh") else ...
            assert values[exists].isfinite().all(), f"{name}: {key}"
        for row in result.header.summary.get("rows", ()):
            for key in ("accuracy", "mean", "circuit", "model", "full", "do_nothing"):
                shares = row.get(key, 0.5)
                for share in shares if isinstance(shares, list) else [shares]:
                    assert isinstance(share, str) or 0 <= share <= 1


def test_scores_are_those_that_the_methods_summaries_say(everything):
    for name, result in everything.items():
        summary = METHODS[result.header.job.spec.method].summary
        read = result.read(summary)
        declared = {key: one for one in summary.scores for key, _ in one.names(read.summary)}
        assert set(result.scores) <= set(declared), name
        lacking = {declared[key].name for key in set(declared) - set(result.scores)}
        assert lacking <= {one.name for one in summary.scores if not one.always}, name


INTERVALS = {
    "table": ("full", "circuit", "faithfulness", "random_mean"),
    "pruned": ("before", "after", "contribution"),
    "complete": ("circuit", "model", "completeness"),
    "masks": ("accuracy", "do_nothing", "floor", "ceiling"),
    "roles": ("mean", "do_nothing"),
    "across": ("accuracy",),
    "blind": ("accuracy",),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_every_accuracy_and_what_is_made_of_it_has_its_interval(everything, name):
    summary = everything[name].header.summary
    for row in summary["heads" if name == "pruned" else "rows"]:
        for key in INTERVALS[name]:
            bounds = row["random_interval" if key == "random_mean" else f"{key}_interval"]
            several = isinstance(row[key], list)
            for value, (low, high) in zip(
                row[key] if several else [row[key]], bounds if several else [bounds], strict=True
            ):
                assert low is None or low - 1e-9 <= value <= high + 1e-9, (row, key)


def test_intervals_are_of_the_examples_of_all_draws_and_models(everything):
    table, answers = everything["table"], everything["table"].scores["one.answer"]
    (first, *_), alone = rows(table), table.scores["one.circuit.predicted"] == answers
    assert first["full_interval"] == accuracy_intervals(table.scores["one.model.predicted"] == answers)
    assert first["random_interval"] == accuracy_intervals(alone[1:].double().mean(0))
    better = int((alone[1:].double().mean(-1) >= first["circuit"]).sum())
    assert first["random_p"] == (1 + better) / (1 + first["random_circuits"])
    for edge in rows(everything["blind"]):
        right = everything["blind"].scores[f"{edge['blind']} to {edge['to']}.predicted"]
        assert edge["accuracy_interval"] == accuracy_intervals(right == everything["blind"].scores["answer"])
    across = everything["across"].header.summary
    assert across["model_intervals"].keys() == across["models"].keys() == {"one", "two"}


def test_a_second_run_loads_no_model_and_measures_nothing(copy, everything, no_model):
    again = steps(copy, EVERYTHING)
    assert [(step.done, step.total, step.reused) for step in again] == [(1, 1, 1)] * len(everything)


def test_without_the_results_every_cell_comes_from_the_store(copy, everything, no_model):
    folder = folder_of(copy / "runs", plan(manifest(copy, EVERYTHING, UNCHECKED)))
    for name in everything:
        shutil.rmtree(folder / name)
    assert all(step.reused == step.done for step in steps(copy, EVERYTHING, UNCHECKED) if step.experiment != "overlap")
    for name, result in results(copy, EVERYTHING, UNCHECKED).items():
        assert result.header.summary == everything[name].header.summary
        for key, values in result.scores.items():
            torch.testing.assert_close(values, everything[name].scores[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("after", [20])
def test_a_run_stopped_anywhere_ends_with_the_same_scores(root, everything, tmp_path, after):
    for name in (*MODELS, "circuit.json"):
        (tmp_path / name).symlink_to(root / name)
    going = run(plan(manifest(tmp_path, EVERYTHING)), tmp_path / "runs")
    for _ in range(after):
        next(going)
    going.close()  # type: ignore[attr-defined]
    for name, result in results(tmp_path, EVERYTHING).items():
        assert result.scores.keys() == everything[name].scores.keys()
        for key, values in result.scores.items():
            torch.testing.assert_close(values, everything[name].scores[key], rtol=0, atol=0, equal_nan=True)


def test_the_reference_engine_finds_the_same_by_every_method(copy, everything):
    reference = results(copy, EVERYTHING, "engine=reference")
    for name, result in everything.items():
        other = reference[name]
        if name != "overlap":
            assert other.header.identity != result.header.identity
        assert_same_scores(other.scores, result.scores, said=name)


def test_what_is_selected_is_where_the_trained_mask_is_0(everything):
    heads = Circuit.from_dict(everything["masks"].header.summary["circuit"])
    for row in rows(everything["masks"]):
        mask = everything["masks"].scores[f"{row['group']}.{row['desideratum']}.mask"]
        named = zip(heads.group(row["group"]).heads, mask, strict=True)
        assert row["selected"] == [str(head) for head, keep in named if keep == 0]
    assert any(row["selected"] for row in rows(everything["masks"]))


@pytest.mark.parametrize("setting", ["seed=4", "models.one.path=two", "task.boxes=3", "dtype=float64"])
def test_another_seed_model_task_or_dtype_is_measured_anew(copy, setting):
    text = "".join(line for line in EVERYTHING.splitlines(True) if any(name in line for name in ("blind:", "screen:")))
    objects = "task.objects=[book, car, paper, letter, apple, pipe]"
    assert all(step.reused == 0 for step in steps(copy, text, setting, objects))


@pytest.mark.parametrize("method", ["knockout", "attribution", "attention_patterns, circuit: ./circuit.json"])
def test_only_prompts_the_model_answers_are_taken_where_that_is_asked_for(root, method):
    """The first ones, in their order, of as many as it takes."""
    x = results(root, f"  x: {{method: {method}, model: one, examples: 9, only_correct: true}}\n")["x"]
    split = "discovery" if method == "attribution" else "evaluation"
    drawn = TASK.examples(tokenizer(), 9 * 16, SEED, split)
    pair = collate(drawn, PAD)
    right = plain_methods.plain_logits(MODELS["one"](), pair.base).argmax(-1) == pair.answer
    first = [one for one, is_right in zip(drawn, right, strict=True) if is_right][:9]
    assert x.header.data_digest == data_digest(first)
    if method == "knockout":
        assert [row["accuracy"][-1] for row in rows(x)] == [1.0] * 5
        assert min(row["accuracy"][0] for row in rows(x)) < 1


def test_a_model_that_answers_too_few_prompts_is_named(root):
    text = "  x: {method: knockout, model: one, examples: 2, only_correct: true}\n"
    with pytest.raises(
        ExperimentError, match=r"x.only_correct: one answers 0 of 64 prompts correctly; accepted: fewer examples"
    ):
        steps(root, text, "task.objects=[apple, pipe, guitar, disk]")


def test_circuits_that_do_not_fit_are_refused_by_every_method_before_any_work(copy, no_model):
    (copy / "circuit.json").write_text('{"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L7H0"]}]}')
    options = {
        "faithfulness": "models: [one]", "minimality": "model: one", "completeness": "model: one", "dcm": "model: one",
        "attention_patterns": "model: one", "cmap": "donor: one, recipient: two",
    }  # fmt: skip
    for method, more in options.items():
        text = f"  x: {{method: {method}, circuit: ./circuit.json, {more}}}\n"
        with pytest.raises(TaskError, match=r"experiments.x: one: group a has L7H0; the model has layers L0-L2 and"):
            steps(copy, text)
    text = "  x: {method: activation_patching, roles: published/llama, models: [one], desiderata: [object]}\n"
    with pytest.raises(
        TaskError, match=r"experiments.x: one: group value_fetcher has L\d+H\d+; the model has layers L0-"
    ):
        steps(copy, text)
