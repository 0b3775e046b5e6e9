"""Every method from a manifest to its result, in both engines; a run again; roles, draws, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import plain_methods
import pytest
import torch
from methods_study import MODELS, accuracy_of, circuit, manifest, models_in, results, steps, swaps

from nnsight_et.circuit import Circuit, Head
from nnsight_et.errors import TaskError
from nnsight_et.jobs.roles import Roles
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.run import run, run_folder
from nnsight_et.store import Result

EVERYTHING = """\
  found:
    method: path_patching
    model: one
    examples: 6
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
  table: {method: faithfulness, circuit: found, models: [one, two], examples: 6, ablation_examples: 5}
  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5, threshold: -0.5}
  complete: {method: completeness, circuit: pruned, examples: 6, ablation_examples: 5, draws: 2}
  overlap: {method: comparison, circuits: [found, pruned]}
  masks:
    {method: dcm, circuit: found, desiderata: [object, position], training_examples: 8, validation_examples: 6,
     test_examples: 7, batch: 4, epochs: 3, learning_rate: 0.4, validate_every: 2}
  roles:
    {method: activation_patching, roles: masks, desiderata: [object, no_comma], models: [one, two], examples: 6,
     draws: 2}
  across: {method: cmap, donor: two, recipient: one, circuit: found, examples: 6, random_sets: 2}
  blind: {method: knockout, model: one, examples: 6}
  looks: {method: attention_patterns, circuit: found, examples: 6}
  screen: {method: attribution, model: one, examples: 6}
"""
WITHOUT_REFERENCE = {"looks", "screen", "overlap"}
"""They have one way of running alone."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return models_in(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def everything(root) -> dict[str, Result]:
    return results(root, EVERYTHING)


@pytest.fixture
def copy(root, everything, tmp_path) -> Path:
    """The finished study, to change."""
    return shutil.copytree(root, tmp_path / "jobs")


def rows(result: Result) -> list[dict]:
    return result.header.summary["rows"]


def test_every_method_ends_with_a_result_whose_numbers_exist(everything):
    assert {result.header.job["spec"]["method"] for result in everything.values()} == set(METHODS)
    for name, result in everything.items():
        assert bool(result.scores) == (name != "overlap")
        for key, values in result.scores.items():
            assert values.isfinite().all(), f"{name}: {key}"
        for row in result.header.summary.get("rows", ()):
            for key in ("accuracy", "mean", "circuit", "model", "full", "do_nothing"):
                shares = row.get(key, 0.5)
                for share in shares if isinstance(shares, list) else [shares]:
                    assert isinstance(share, str) or 0 <= share <= 1


def test_a_second_run_loads_no_model_and_measures_nothing(copy, everything, no_model):
    again = steps(copy, EVERYTHING)
    assert [(step.done, step.total, step.reused) for step in again] == [(1, 1, 1)] * len(everything)


def test_without_the_results_every_cell_comes_from_the_store(copy, everything, no_model):
    folder = run_folder(manifest(copy, EVERYTHING), copy / "runs")
    for name in everything:
        shutil.rmtree(folder / name)
    assert all(step.reused == step.done for step in steps(copy, EVERYTHING) if step.experiment != "overlap")
    for name, result in results(copy, EVERYTHING).items():
        assert result.header.summary == everything[name].header.summary
        for key, values in result.scores.items():
            torch.testing.assert_close(values, everything[name].scores[key], rtol=0, atol=0)


@pytest.mark.parametrize("after", [20])
def test_a_run_stopped_anywhere_ends_with_the_same_scores(root, everything, tmp_path, after):
    for name in (*MODELS, "circuit.json"):
        (tmp_path / name).symlink_to(root / name)
    going = run(manifest(tmp_path, EVERYTHING), tmp_path / "runs")
    for _ in range(after):
        next(going)
    going.close()  # type: ignore[attr-defined]
    for name, result in results(tmp_path, EVERYTHING).items():
        assert result.scores.keys() == everything[name].scores.keys()
        for key, values in result.scores.items():
            torch.testing.assert_close(values, everything[name].scores[key], rtol=0, atol=0)


def test_the_reference_engine_finds_the_same_by_every_method(copy, everything):
    reference = results(copy, EVERYTHING, "engine=reference")
    for name, result in everything.items():
        other = reference[name]
        if name not in WITHOUT_REFERENCE:
            assert other.header.identity != result.header.identity
        assert other.scores.keys() == result.scores.keys()
        for key, values in result.scores.items():
            torch.testing.assert_close(other.scores[key], values, atol=1e-5, rtol=1e-5, msg=f"{name}: {key}")


def test_selected_heads_are_tried_on_fresh_examples_beside_doing_nothing(everything):
    module, tried = MODELS["one"](), swaps("object", 7, "mask_test")
    nothing = accuracy_of(plain_methods.plain_logits(module, tried.base), tried.answer)
    found = rows(everything["masks"])
    assert [(row["desideratum"], row["group"]) for row in found] == [
        (name, group) for name in ("object", "position") for group in ("value_fetcher", "position_detector")
    ]
    at = {"value_fetcher": "last", "position_detector": "query_label"}
    for row in found[:2]:
        logits = plain_methods.patched_logits(module, tried, {at[row["group"]]: list(map(Head.parse, row["selected"]))})
        assert row["accuracy"] == pytest.approx(accuracy_of(logits, tried.answer))
        assert row["do_nothing"] == pytest.approx(nothing)
    assert any(row["selected"] for row in found)
    for row in found:
        mask = everything["masks"].scores[f"{row['group']}.{row['desideratum']}.mask"]
        heads = Circuit.from_dict(everything["masks"].header.summary["circuit"]).group(row["group"]).heads
        assert row["selected"] == [str(head) for head, keep in zip(heads, mask, strict=True) if keep == 0]


def test_functionality_is_the_mean_over_draws_of_the_selected_heads_patched_in_every_model(everything):
    """Variants of position that no heads were selected for patch the heads for position."""
    chosen = {(row["group"], row["desideratum"]): row["selected"] for row in rows(everything["masks"])}
    at = {"value_fetcher": "last", "position_detector": "query_label"}
    found = rows(everything["roles"])
    assert len(found) == 2 * 2 * 2
    for row in found:
        module = MODELS[row["model"]]()
        heads = chosen[row["group"], "position" if row["desideratum"] == "no_comma" else row["desideratum"]]
        patched, nothing = [], []
        for draw in (0, 1):
            pair = swaps(row["desideratum"], 6, "evaluation", draw)
            logits = plain_methods.patched_logits(module, pair, {at[row["group"]]: list(map(Head.parse, heads))})
            patched.append(accuracy_of(logits, pair.answer))
            nothing.append(accuracy_of(plain_methods.plain_logits(module, pair.base), pair.answer))
        assert row["mean"] == pytest.approx(sum(patched) / 2)
        assert row["std"] == pytest.approx(abs(patched[0] - patched[1]) / 2)
        assert row["do_nothing"] == pytest.approx(sum(nothing) / 2)
        assert row["heads"] == len(heads)
    assert len({row["mean"] for row in found}) > 1


def test_draws_are_different_examples_and_disjoint_from_those_that_trained():
    draws = [swaps("object", 20, "evaluation", draw).base.tokens.tolist() for draw in (0, 1)]
    assert not any(prompt in draws[1] for prompt in draws[0])
    training = [swaps("object", 20, split).base.tokens.tolist() for split in ("mask_training", "mask_validation")]
    assert not any(prompt in draws[0] + draws[1] for prompt in training[0] + training[1])


def test_roles_of_a_variant_are_its_own_where_it_was_trained_and_those_of_position_elsewhere():
    group = circuit().group("value_fetcher")
    trained = {"position": group.heads[:1], "no_comma": group.heads[1:3]}
    roles = Roles(circuit(), {"value_fetcher": trained})
    assert roles.desiderata == ("position", "no_comma")
    assert roles.heads(group, "no_comma") == group.heads[1:3]
    assert roles.heads(group, "altered_order") == group.heads[:1]
    assert [one.groups[0].name for one in roles.sets("position")] == ["value_fetcher"]
    with pytest.raises(TaskError, match="no heads of value_fetcher were selected for object; accepted: position, no_c"):
        roles.heads(group, "object")


@pytest.mark.parametrize("setting", ["seed=4", "models.one.path=two", "task.boxes=3", "dtype=float64"])
def test_another_seed_model_task_or_dtype_is_measured_anew(copy, setting):
    text = "".join(line for line in EVERYTHING.splitlines(True) if any(name in line for name in ("blind:", "screen:")))
    objects = "task.objects=[book, car, paper, letter, apple, pipe]"
    assert all(step.reused == 0 for step in steps(copy, text, setting, objects))


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
