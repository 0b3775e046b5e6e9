"""Whether a model answers better than chance: what an answer is chosen from, what chance is, when it is told of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nnsight_et
from nnsight_et.core.batch import NO_TOKEN, Example, Prompt
from nnsight_et.core.errors import ManifestError
from nnsight_et.core.notices import Notice
from nnsight_et.core.statistics import wilson_interval
from nnsight_et.interventions.answers import plain_answers
from nnsight_et.manifest import BoxesTask, load, parse
from nnsight_et.manifest.schema import PROBED
from nnsight_et.measuring.chance import chance_notices, choice_of, right_answers
from nnsight_et.measuring.examples import Sample, examples_of
from nnsight_et.planning.plan import plan
from nnsight_et.report.html.page import limits
from nnsight_et.results.headers import read_header
from nnsight_et.results.study import study_in
from nnsight_et.runner import preflight
from nnsight_et.runner.run import RunOptions, run
from nnsight_et.tasks.boxes import OBJECTS
from tests.helpers.commands import et
from tests.helpers.small_study import STUDY, fresh_study
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model, tokenizer

BASE = Prompt((5, 6), {"last": 1})


def example(answer: int, also: Sequence[int] = (), foils: Sequence[int] = ()) -> Example:
    return Example(BASE, BASE, answer, tuple(also), tuple(foils))


def told(right: int, prompts: int, chance: float) -> list[Notice]:
    choice = replace(choice_of([example(1, foils=[2])], 100), chance=chance)
    return chance_notices("m", choice, {"prompts": prompts, "right": right, "right_of_all": 0})


def test_the_interval_is_wilsons():
    """10 of 40: middle (0.25 + 0.048) / 1.096 = 0.272, width 1.96 sqrt(0.0046875 + 0.0006) / 1.096 = 0.130."""
    assert wilson_interval(10, 40) == pytest.approx((0.1419, 0.4019), abs=1e-4)
    assert wilson_interval(0, 40) == pytest.approx((0.0, 0.0876), abs=1e-4)
    assert wilson_interval(40, 40) == pytest.approx((0.9124, 1.0), abs=1e-4)


def test_it_is_told_where_the_interval_has_chance_in_it_or_lies_below():
    assert not told(15, 40, 0.14)
    assert told(10, 40, 0.1420)
    assert not told(10, 40, 0.1418)
    assert told(4, 40, 0.5)
    assert told(0, 40, 0.001)
    assert "no better than chance" in told(4, 40, 0.5)[0].text
    assert "cannot be told from chance" in told(2, 2, 0.5)[0].text


def test_with_foils_one_right_token_is_as_likely_as_a_wrong_one():
    choice = choice_of([example(1, foils=[2, 3]), example(4, also=[5, 6], foils=[7])], 100, "the objects named")
    assert choice.tokens.tolist() == [[NO_TOKEN, 2, 3, 1], [7, 4, 5, 6]]
    assert choice.chance == pytest.approx((1 / 3 + 3 / 4) / 2)
    assert choice.among == "the objects named"


def test_without_foils_answers_are_chosen_from_all_answers_and_chance_is_the_most_frequent_one():
    choice = choice_of([example(1), example(1), example(2), example(3, also=[2])], 100)
    assert choice.tokens.tolist() == [[2, 3, 1], [2, 3, 1], [1, 3, 2], [1, 3, 2]]
    assert choice.chance == 0.5
    assert choice.among == "the 3 answers of these prompts"


def test_of_one_answer_alone_nothing_is_chosen_and_all_tokens_count():
    some = [example(1), example(1)]
    choice = choice_of(some, 100)
    assert (choice.chance, choice.among) == (0.01, "all tokens")
    found = right_answers(some, choice, predicted=torch.tensor([1, 9]), chosen=torch.tensor([1, 1]))
    assert found == {"prompts": 2, "right": 1, "right_of_all": 1}


def test_what_is_right_is_counted_among_the_candidates_and_among_all_tokens():
    some = [example(1, also=[4], foils=[2]), example(3, foils=[2])]
    found = right_answers(some, choice_of(some, 100), predicted=torch.tensor([9, 3]), chosen=torch.tensor([4, 3]))
    assert found == {"prompts": 2, "right": 2, "right_of_all": 1}


def test_boxes_are_chosen_from_the_objects_named_one_of_as_many_as_there_are_boxes():
    words = tokenizer()
    some = examples_of(BoxesTask(boxes=4), words, Sample("discovery", 5, 0, foils=True))
    choice = choice_of(some, 100)
    assert choice.chance == 0.25
    for row, one in zip(choice.tokens.tolist(), some, strict=True):
        assert set(row) <= set(one.base.tokens)
        assert row[-1] == one.answer
        assert len(set(row)) == 4


def test_the_answers_are_those_of_the_model_by_itself():
    module = hf_llama()
    pair = few_pairs()
    candidates = torch.tensor([[4, 9, NO_TOKEN], [7, 8, 30], [50, 60, NO_TOKEN]])
    found = plain_answers(tiny_model(module), pair.base, candidates)
    for row in range(3):
        tokens = pair.base.tokens[row][pair.base.mask[row].bool()][None]
        logits = module(tokens).logits[0, -1]
        named = [token for token in candidates[row].tolist() if token != NO_TOKEN]
        assert found["predicted"][row] == logits.argmax()
        assert found["chosen"][row] == max(named, key=lambda token: logits[token].item())


def test_equal_logits_are_not_right():
    """A model that says the same of every token has chosen none."""
    module = hf_llama()
    module.lm_head.weight.zero_()
    pair = few_pairs()
    found = plain_answers(tiny_model(module), pair.base, torch.tensor([[4, 9], [7, 8], [50, 60]]))
    assert found["chosen"].tolist() == [4, 7, 50]


def heard_of(root: Path, *settings: str, **options) -> list[Notice]:
    heard: list[Notice] = []
    for _ in run(
        plan(load(root / "study.yaml", settings)), root / "runs", options=RunOptions(on_notice=heard.append), **options
    ):
        pass
    return heard


def limits_of(folder: Path) -> list[str]:
    """What the report says first."""
    return [limit.text for limit in limits(study_in(folder), 0)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each pass of a probe had."""
    counts: list[int] = []

    def counting(model, prompts, candidates):
        counts.append(len(prompts.tokens))
        return plain_answers(model, prompts, candidates)

    monkeypatch.setattr(preflight, "plain_answers", counting)
    return counts


def test_random_models_are_told_of_before_anything_is_measured_and_looked_at_once(tmp_path: Path, passes: list[int]):
    root = fresh_study(tmp_path)
    heard: list[Notice] = []
    steps = run(
        plan(load(root / "study.yaml", ["memory=1GiB"])), root / "runs", options=RunOptions(on_notice=heard.append)
    )
    next(steps)
    assert {(notice.kind, notice.where) for notice in heard} == {("chance", "one"), ("chance", "two")}
    assert all("among the objects named" in notice.text and "chance is 0.5" in notice.text for notice in heard)
    assert sum(passes) == 2 * PROBED  # found and table1 share what is known of one
    assert max(passes) <= 9  # prompts that an experiment has
    for _ in steps:
        pass
    assert len(heard) == 2
    assert sum(passes) == 2 * PROBED
    (folder,) = (root / "runs" / "study").iterdir()
    assert {notice.where for notice in read_header(folder / "found").notices} == {"one"}
    assert {notice.where for notice in read_header(folder / "table1").notices} == {"one", "two"}


def test_a_finished_run_loads_no_model_to_tell_it_again(study: Path, no_model):
    assert {notice.where for notice in heard_of(study)} == {"one", "two"}


def test_what_was_found_is_kept_where_results_are_gone(study: Path, passes: list[int]):
    heard = heard_of(study)
    assert {notice.where for notice in heard} == {"one", "two"}
    assert passes == []
    (folder,) = (study / "runs" / "study").iterdir()
    (folder / "found" / "result.json").unlink()
    (folder / "table1" / "result.json").unlink()
    assert set(heard_of(study)) == set(heard)
    assert passes == []


def test_fresh_looks_again(study: Path, passes: list[int]):
    heard_of(study, fresh=True)
    assert sum(passes) == 2 * PROBED


def test_it_can_be_left_out_and_changes_no_number(finished: Path, tmp_path: Path, passes: list[int]):
    root = fresh_study(tmp_path)
    assert heard_of(root, "probe=off") == []
    assert passes == []
    (here,), (there,) = ((one / "runs" / "study").iterdir() for one in (root, finished))
    assert here.name == there.name
    for name in ("found", "table1"):
        assert (here / name / "scores.safetensors").read_bytes() == (there / name / "scores.safetensors").read_bytes()
        assert read_header(here / name).identity == read_header(there / name).identity
    ids = [[job.id for job in plan(load(root / "study.yaml", some)).jobs] for some in ([], ["probe=off"])]
    assert ids[0] == ids[1]


def test_results_that_were_made_without_it_are_looked_at_when_it_is_on(tmp_path: Path, passes: list[int]):
    """Their cells are there: the models answer a few prompts, and nothing else is measured."""
    root = fresh_study(tmp_path)
    heard_of(root, "probe=off")
    (folder,) = (root / "runs" / "study").iterdir()
    assert [read_header(folder / name).probe for name in ("found", "table1")] == ["off", "off"]
    assert "Not compared with chance (probe: off): found, table1." in limits_of(folder)
    written = len(list((root / "runs" / "store").rglob("*.safetensors")))
    assert {notice.where for notice in heard_of(root, "self_check=off")} == {"one", "two"}
    assert sum(passes) == 2 * PROBED
    assert len(list((root / "runs" / "store").rglob("*.safetensors"))) == written
    assert [read_header(folder / name).probe for name in ("found", "table1")] == ["on", "on"]
    assert {notice.where for notice in read_header(folder / "table1").notices} == {"one", "two"}
    assert '"probe"' not in (folder / "found" / "result.json").read_text()


def test_what_was_found_and_is_damaged_is_found_again(study: Path, passes: list[int]):
    (folder,) = (study / "runs" / "study").iterdir()
    before = heard_of(study)
    for name in ("found", "table1"):
        (folder / name / "result.json").unlink()
    for path in (study / "runs" / "store").glob("*/*.json"):
        path.write_text("{}")
    assert set(heard_of(study)) == set(before)
    assert sum(passes) == 2 * PROBED


ASKED = "The {{{{object|{}}}}} is in Box"
KNOCKOUT = "{method: knockout, examples: 2, edges: [{blind: last, to: query_label}]}"


def test_the_embedded_models_answer_and_are_not_told_of(tmp_path: Path):
    names = ("llama-tiny", "goat-tiny")
    lines = "\n".join(f"  k{index}: {KNOCKOUT[:-1]}, model: {name}}}" for index, name in enumerate(names))
    (tmp_path / "study.yaml").write_text(f"name: s\nself_check: off\nexperiments:\n{lines}\n")
    assert heard_of(tmp_path) == []


def test_pairs_from_a_file_are_told_of_too(tmp_path: Path):
    root = fresh_study(tmp_path)
    lines = [
        {"base": ASKED.format(thing), "source": ASKED.format(other), "answer": box}
        for thing, other, box in zip(OBJECTS[:30], OBJECTS[30:60], "ABCDEF" * 5, strict=True)
    ]
    (root / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (root / "study.yaml").write_text(
        "name: s\nself_check: off\nmodels: {one: {path: model}}\n"
        "task: {kind: pairs, file: pairs.jsonl, positions: [object]}\n"
        "experiments:\n  k: {method: knockout, model: one, examples: 2, edges: [{blind: last, to: object}]}\n"
    )
    (notice,) = heard_of(root)
    assert "answers of these prompts" in notice.text
    assert "of 10 are right" in notice.text  # what the file has for evaluation, a third


def test_findings_in_python_carry_it_and_show_it():
    model, pairs = nnsight_et.load(hf_llama(), tokenizer()), nnsight_et.Pairs.boxes(12, boxes=3)
    finding = nnsight_et.knockout(model, pairs, blind="last", to="query_label")
    (notice,) = finding.notices
    assert "of 12 are right" in notice.text
    assert str(notice) in repr(finding)
    assert "chance" in finding._repr_html_()
    scores = nnsight_et.path_patch(model, pairs)
    assert scores.notices == finding.notices
    off = nnsight_et.knockout(replace(model, probe="off"), pairs, blind="last", to="query_label")
    assert off.notices == ()
    assert all(torch.equal(tensor, off.scores[name]) for name, tensor in finding.scores.items())


def test_commands_of_one_method_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fresh_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = et("knockout", "--model", "./model", "--boxes", "2", "--examples", "2", "--self-check", "off")
    assert found.stderr.startswith("Notice: ./model: answers")
    quiet = et("knockout", "--model", "./model", "--boxes", "2", "--examples", "2", "--self-check", "off", "-q")
    assert quiet.stderr == ""


def test_the_manifest_says_on_or_off():
    with pytest.raises(ManifestError, match="probe"):
        parse(f"{STUDY}probe: maybe\n", "s")
