"""The benchmark of truth: what was planted is found, and what is not there is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Head
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.truth import (
    Benchmark,
    Trial,
    TruthCheck,
    by_method,
    hard,
    hard_trials,
    quick_trials,
    whole_trials,
    write_json,
    wrong,
)
from nnsight_et.truth.checks import checks
from nnsight_et.truth.study import write_trial
from nnsight_et.zoo.hard import BACKUP, CARRIED, HARD, NOISY, NOTHING, SOME_PROMPTS
from nnsight_et.zoo.known import CROWDED, GROUPED, KNOWN, LABEL, POSITION, Known, make_model, parse_heads
from nnsight_et.zoo.plant import N_HEADS, layers_of
from nnsight_et.zoo.statements import near, same_heads
from nnsight_et.zoo.tokenizer import word_tokenizer
from tests.helpers.commands import et
from tools.embedded_models.forward import capture_run
from tools.embedded_models.measure import accuracy

SMALL = Trial(GROUPED, examples=8)
FEW = ["found", "blocked", "faithful", "overlap"]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return collate(Boxes().examples(word_tokenizer(), 20, seed=4, split="evaluation"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What a few methods find in the grouped model."""
    place = tmp_path_factory.mktemp("truth")
    manifest = write_trial(SMALL, place)
    assert list(run(plan(manifest), place / "runs", only=FEW))
    return {name: read_result(folder_of(place / "runs", plan(manifest)) / name) for name in FEW}


def without(known: Known, heads: set[Head]) -> Known:
    return replace(known, heads=tuple(one for one in known.heads if one.head not in heads))


def test_planted_heads_are_recovered_in_a_model_with_shared_keys(results: dict[str, Result]) -> None:
    found = checks(SMALL, results)
    stages = [check for check in found if check.method == "path_patching"]
    assert [check.what for check in stages] == list(GROUPED.groups)
    assert all(check.numbers == {"precision": 1.0, "recall": 1.0} for check in stages)
    assert [check for check in found if not check.right] == []
    assert {check.method for check in found} == {"path_patching", "knockout", "faithfulness", "comparison"}


@pytest.mark.parametrize(("other", "methods"), [(POSITION, {"path_patching"}), (LABEL, {"knockout"})])
def test_results_of_one_model_are_not_the_truth_of_another(
    results: dict[str, Result], other: Known, methods: set[str]
) -> None:
    some = {name: result for name, result in results.items() if other is POSITION or name == "blocked"}
    found = checks(replace(SMALL, known=other), some)
    assert methods <= {check.method for check in found if not check.right}


def test_a_head_that_was_moved_or_is_not_found_costs_precision_or_recall(results: dict[str, Result]) -> None:
    moved = tuple(replace(one, head=Head(3, 6)) if one.head == Head(3, 1) else one for one in GROUPED.heads)
    stage = _stage(checks(replace(SMALL, known=replace(GROUPED, heads=moved)), results))
    assert not stage.right
    assert stage.numbers == {"precision": 0.5, "recall": 0.5}
    fewer = _stage(checks(replace(SMALL, known=without(GROUPED, {Head(3, 1)})), results))
    assert fewer.numbers == {"precision": 0.5, "recall": 1.0}


def _stage(found: list[TruthCheck]) -> TruthCheck:
    (stage,) = [one for one in found if (one.method, one.what) == ("path_patching", "position_transmitter")]
    return stage


def test_sets_and_numbers_are_compared_exactly() -> None:
    heads = {Head(1, 0), Head(2, 3)}
    assert same_heads("", heads, heads).right
    assert same_heads("", set(), set()).numbers == {"precision": 1.0, "recall": 1.0}
    assert same_heads("", set(), heads).numbers == {"precision": 0.0, "recall": 1.0}
    assert same_heads("", heads, set()).numbers == {"precision": 0.0, "recall": 0.0}
    assert not same_heads("", heads, set()).right
    assert near("", 1.0, 0.96).right
    assert not near("", 1.0, 0.94).right
    assert not near("", 0.0, float("nan")).right


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_known_model_answers_and_either_head_of_a_pair_suffices(known: Known, pair: Pair) -> None:
    model = make_model(known, seed=0)
    assert model.config.num_key_value_heads == known.n_kv_heads
    assert accuracy(model, pair) == 1.0
    for group in known.circuit.groups:
        first, *second = group.heads
        if second:
            assert accuracy(make_model(without(known, {first}), seed=0), pair) == 1.0
        left = accuracy(make_model(without(known, set(group.heads)), seed=0), pair)
        assert left < 0.4
        assert accuracy(make_model(known, 0, silenced=group.name), pair) < 0.4


def test_other_heads_compute_something_and_write_nothing(pair: Pair) -> None:
    model = make_model(POSITION, seed=0)
    z = capture_run(model, pair.base.tokens[:2]).heads
    places = {one.head for one in POSITION.heads}
    idle = [Head(layer, index) for layer in range(5) for index in range(N_HEADS) if Head(layer, index) not in places]
    assert len(idle) == 28
    for layer, index in idle:
        assert z[layer][:, :, index].std() > 0.1
        assert not layers_of(model)[layer].self_attn.o_proj.weight[:, 32 * index : 32 * (index + 1)].any()


def test_distractors_are_loud_and_differ_between_prompts(pair: Pair) -> None:
    model, last = make_model(CROWDED, seed=0), -1

    def written_by(head: Head, run) -> torch.Tensor:
        z = capture_run(model, run.tokens).heads[head.layer][:, last, head.index]
        return z @ layers_of(model)[head.layer].self_attn.o_proj.weight[:, 32 * head.index : 32 * (head.index + 1)].T

    echo, fetcher = written_by(Head(0, 5), pair.base), written_by(Head(5, 0), pair.base)
    assert echo.norm(dim=-1).min() > 3 * fetcher.norm(dim=-1).max()
    assert (echo - written_by(Head(0, 5), pair.source)).norm(dim=-1).min() > 2


def test_the_same_seed_makes_the_same_model_and_another_seed_another() -> None:
    one, same, other = (make_model(LABEL, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_heads_that_would_share_a_kv_head_with_another_key_are_refused() -> None:
    clash = (*GROUPED.heads, replace(POSITION.heads[-1], head=Head(2, 0)))
    with pytest.raises(ValueError, match="L2H0 shares kv head 0 with a head of another key or value"):
        make_model(replace(GROUPED, heads=clash), seed=0)


def test_the_trials_cover_every_model_and_both_engines() -> None:
    assert {trial.known.name for trial in quick_trials()} == {known.name for known in KNOWN}
    pairs = {(trial.known.name, trial.seed, trial.engine) for trial in whole_trials(range(2))}
    assert len(pairs) == 2 * 2 * len(KNOWN)
    assert {trial.engine for trial in quick_trials()} == {"default", "reference"}


def test_tables_and_json_tell_right_from_wrong(tmp_path: Path) -> None:
    numbers = {"precision": 0.5, "recall": float("nan")}
    right = TruthCheck("position", 0, "default", "cmap", "a", "1", "1", True)
    other = TruthCheck("label", 0, "default", "path_patching", "b", "L1H0", "L1H1", False, numbers)
    benchmark = Benchmark((), checks=[right, other])
    assert by_method(benchmark).rows[0][:4] == ("cmap", "default", "1 of 1", "–")
    assert by_method(benchmark).rows[1][:5] == ("path_patching", "default", "–", "0 of 1", "0.50")
    assert wrong(benchmark).rows == (("label", "0", "default", "path_patching", "b", "L1H0", "L1H1"),)
    write_json(benchmark, tmp_path / "truth.json")
    data = json.loads((tmp_path / "truth.json").read_text())
    assert data["right"] is False
    assert data["checks"][1]["numbers"] == {"precision": 0.5, "recall": None}


def test_hard_models_are_what_they_say(pair: Pair) -> None:
    first, last = Head(4, 0), Head(4, 1)

    def right(known: Known) -> float:
        return accuracy(make_model(known, seed=0), pair)

    assert [right(known) for known in (CARRIED, BACKUP, SOME_PROMPTS)] == [1.0, 1.0, 1.0]
    assert 0.7 < right(NOISY) <= 1
    assert right(NOTHING) < 0.2
    assert right(replace(CARRIED, carrying=None)) == 0  # the MLP's step is needed
    assert right(without(BACKUP, {first})) == right(without(BACKUP, {Head(5, 0)})) == 1  # either head suffices
    assert right(without(BACKUP, {first, Head(5, 0)})) == 0
    alone = [right(without(SOME_PROMPTS, {head})) for head in (first, last)]
    assert sum(alone) == 1  # each answers what the other does not
    assert min(alone) > 0.2


def test_a_hard_model_is_measured_and_nothing_is_demanded_of_it(tmp_path: Path) -> None:
    trial = replace(hard_trials([0])[-1], examples=24)
    assert [one.known for one in hard_trials([0])] == list(HARD)
    assert trial.known is NOTHING
    benchmark = Benchmark((trial,))
    assert list(benchmark.steps(tmp_path))
    assert benchmark.wrong == []
    rows = {row[0]: row[2:] for row in hard(benchmark).rows}
    assert rows["path_patching"][:2] == rows["attribution"][:2] == ("1.00", "1.00")
    assert 0.8 < float(rows["path_patching"][3]) <= 1
    assert by_method(benchmark).rows == ()
    write_json(benchmark, tmp_path / "truth.json")
    data = json.loads((tmp_path / "truth.json").read_text())
    assert [one["method"] for one in data["measures"]] == ["path_patching"]
    planted = replace(NOTHING, heads=parse_heads("L3H3 nobody"))  # what is planted and not found is recall that is lost
    lost = checks(replace(trial, known=planted), {"found": read_found(tmp_path)})
    assert lost[0].numbers["recall"] == 0


def read_found(place: Path) -> Result:
    (folder,) = place.glob("*/runs/*/*/found")
    return read_result(folder)


@pytest.mark.parametrize("passes", [True, False])
def test_selfcheck_ends_with_0_or_with_the_wrong_rows_and_1(monkeypatch: pytest.MonkeyPatch, passes: bool) -> None:
    check = TruthCheck(
        "position", 0, "default", "dcm", "value_fetcher, object", "L4H0", "L4H0" if passes else "none", passes
    )

    def steps(benchmark: Benchmark, _folder: Path):
        benchmark.checks.append(check)
        return iter(())

    monkeypatch.setattr(Benchmark, "steps", steps)
    ended = et("selfcheck")
    assert ended.exit_code == (0 if passes else 1)
    assert "checks that are right" in ended.stdout
    assert ("value_fetcher, object" in ended.stdout) is not passes


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    ended = et("benchmark-truth", "--out", tmp_path / "nowhere" / "truth.json")
    assert ended.exit_code == 2
    assert "accepted" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("trial", whole_trials((0, 1)), ids=lambda t: f"{t.known.name}-{t.seed}-{t.engine}")
def test_every_method_finds_what_was_planted(trial: Trial, tmp_path: Path) -> None:
    benchmark = Benchmark((trial,))
    assert list(benchmark.steps(tmp_path))
    assert benchmark.wrong == []
    assert len(benchmark.checks) > 10
    assert all(check.numbers["precision"] == 1 == check.numbers["recall"] for check in _scored(benchmark))


def _scored(benchmark: Benchmark) -> list[TruthCheck]:
    return [check for check in benchmark.checks if "precision" in check.numbers]


@pytest.mark.slow
def test_selfcheck_passes_as_a_user_runs_it() -> None:
    ended = et("selfcheck")
    assert ended.exit_code == 0, ended.stdout
