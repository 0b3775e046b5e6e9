"""DCM, activation patching and CMAP with roles on tasks of one's own: desiderata in files, in columns, in a class."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from nnsight_et.core.errors import ManifestError, NnsightEtError, TaskError
from nnsight_et.manifest import load, parse
from nnsight_et.measuring.examples import task_of
from nnsight_et.planning.plan import plan
from nnsight_et.results.store import Result
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum_pairs
from nnsight_et.tasks.own_pairs import OwnPairs, with_swaps
from tests.helpers.commands import et
from tests.helpers.own_pairs_study import results
from tests.helpers.tiny_model import tokenizer

NAMES = ("object", "label")
POSITIONS = ("correct_object", "previous_query_label", "query_label")
COUNT = 48
MASKS = "training_examples: 8, validation_examples: 4, test_examples: 4, batch: 2, learning_rate: 0.5"
STUDY = f"""\
name: own
seed: 3
task: TASK
memory: 1MiB
models: {{one: {{path: one}}, two: {{path: two}}}}
experiments:
  found:
    method: path_patching
    model: one
    examples: 4
    held_out_examples: 2
    stages:
      - {{group: a, into: logits, at: last, keep: 4, receivers: 2}}
      - {{group: b, into: a, via: value, at: query_label, keep: 3}}
  masks: {{method: dcm, circuit: found, desiderata: [object, label], {MASKS}}}
  roles: {{method: activation_patching, roles: masks, models: [one, two], examples: 4, draws: 2}}
  across: {{method: cmap, donor: one, recipient: two, circuit: found, roles: masks, main_role: {{a: object, b: label}},
    examples: 4, random_sets: 2}}
"""
GIVEN = """\
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum

class Given:
    positions = ("correct_object", "previous_query_label", "query_label")
    desiderata = ("object", "label")

    def examples(self, tokenizer, count, seed, split):
        return Boxes(3).examples(tokenizer, count, seed, split)

    def desideratum(self, name, tokenizer, count, seed, split):
        return desideratum(Boxes(3), name, tokenizer, count, seed, split)
"""
CLASS = "{kind: 'given:Given'}"
COLUMNS = """{kind: pairs, file: x.csv, positions: [correct_object, previous_query_label, query_label],
  columns: {source: source_object, answer: answer}, space: 'yes', desiderata: {
    object: {columns: {source: source_object, target: target_object}},
    label: {columns: {source: source_label, target: target_label}}}}"""
FILES = """{kind: pairs, file: x.csv, positions: [correct_object, previous_query_label, query_label],
  columns: {source: source_object, answer: answer}, space: 'yes',
  desiderata: {object: {file: object.jsonl}, label: {file: label.jsonl}}}"""


def marked(text) -> str:
    """The text with its marks."""
    made, at = "", 0
    for name, (start, end) in sorted(text.spans.items(), key=lambda one: one[1]):
        made, at = f"{made}{text.text[at:start]}{{{{{name}|{text.text[start:end]}}}}}", end
    return made + text.text[at:]


def rows() -> list[dict[str, str]]:
    """Bases of the boxes task, each with a source and a target by desideratum."""
    made = [
        {"base": marked(pair.base), "answer": pair.base.text[slice(*pair.base.spans["correct_object"])]}
        for pair in desideratum_pairs(Boxes(3), "object", COUNT, 0, "evaluation")
    ]
    for name in NAMES:
        for row, pair in zip(made, desideratum_pairs(Boxes(3), name, COUNT, 0, "evaluation"), strict=True):
            row |= {f"source_{name}": marked(pair.source), f"target_{name}": str(pair.answer)}
    return made


def written(folder: Path, models: Path, task: str) -> Path:
    for name in ("one", "two"):
        (folder / name).symlink_to(models / name)
    every, table = rows(), io.StringIO()
    made = csv.DictWriter(table, list(every[0]))
    made.writeheader()
    made.writerows(every)
    (folder / "x.csv").write_text(table.getvalue())
    for name in NAMES:
        swapped = {"source": f"source_{name}", "target": f"target_{name}"}
        some = [{"base": row["base"]} | {key: row[column] for key, column in swapped.items()} for row in every]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    (folder / "given.py").write_text(GIVEN)
    (folder / "own.yaml").write_text(STUDY.replace("TASK", task))
    return folder / "own.yaml"


@pytest.fixture(scope="module")
def by_columns(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result]]:
    path = written(tmp_path_factory.mktemp("columns"), two_models, COLUMNS)
    return path, results(path)


def same(one: Result, other: Result) -> None:
    assert one.scores.keys() == other.scores.keys()
    for name, values in one.scores.items():
        assert torch.equal(values.nan_to_num(), other.scores[name].nan_to_num())
    tokens = {"tokens"}  # that are scored: told of tasks of one's own
    assert {key: value for key, value in one.header.summary.items() if key not in tokens} == other.header.summary


def test_a_class_with_the_pairs_of_the_boxes_task_finds_what_the_boxes_task_finds(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, CLASS)
    own, boxes = results(path), results(path, "task={kind: boxes, boxes: 3}")
    assert set(own) == {"found", "masks", "roles", "across"}
    for name, result in own.items():
        same(result, boxes[name])
        assert result.header.job_id != boxes[name].header.job_id
    assert own["masks"].header.job.task.desiderata == ["object", "label"]


def test_desiderata_in_columns_and_in_files_are_the_same_and_are_reported(by_columns, two_models: Path, tmp_path: Path):
    path, found = by_columns
    of_files, words = pairs_of(written(tmp_path, two_models, FILES)), tokenizer()
    for name in NAMES:
        of_columns = pairs_of(path).desideratum(name, words, 4, 3, "mask_test")
        assert of_files.desideratum(name, words, 4, 3, "mask_test") == of_columns
    rows_found = found["masks"].header.summary["rows"]
    assert [row["desideratum"] for row in rows_found] == ["object", "object", "label", "label"]
    assert {row["model"] for row in found["roles"].header.summary["rows"]} == {"one", "two"}
    assert et("report", path, "--out", path.parent / "runs").exit_code == 0
    shown = et("pairs", "check", path)
    assert "desiderata object, label" in shown.output
    assert "mask_training 11, mask_validation 5, mask_test 16" in shown.output


def pairs_of(path: Path) -> OwnPairs:
    made = task_of(plan(load(path)).jobs[0].task)
    assert isinstance(made, OwnPairs)
    return made


def test_what_selects_heads_measures_none_and_no_pair_is_in_two_draws(by_columns):
    made, words = pairs_of(by_columns[0]), tokenizer()
    splits = ("mask_training", "mask_validation", "mask_test", "evaluation")
    counts = {split: made.available_swaps(3, split) for split in splits}
    bases = {
        split: {name: [one.base for one in made.desideratum(name, words, counts[split], 3, split)] for name in NAMES}
        for split in splits
    }
    tokens = {split: {base.tokens for base in some["object"]} for split, some in bases.items()}
    assert all(some["object"] == some["label"] for some in bases.values())
    assert (counts["mask_training"], counts["mask_validation"], counts["mask_test"]) == (11, 5, 16)
    assert not tokens["mask_training"] & tokens["mask_validation"]
    assert tokens["mask_test"] == tokens["evaluation"]
    discovery, evaluation = (
        {one.base.tokens for one in made.examples(words, made.available(3, split), 3, split)}
        for split in ("discovery", "evaluation")
    )
    assert tokens["mask_training"] | tokens["mask_validation"] == discovery
    assert tokens["mask_test"] == evaluation
    draws = [made.desideratum("label", words, 4, 3, "evaluation", draw=draw) for draw in range(4)]
    assert len({one.base.tokens for some in draws for one in some}) == 16
    with pytest.raises(
        TaskError, match="split evaluation: 5 draws of 4 pairs of desideratum label, but there are 16 pairs; accepted"
    ):
        made.desideratum("label", words, 4, 3, "evaluation", draw=4)


def test_targets_and_sources_are_those_of_their_rows(by_columns):
    made = pairs_of(by_columns[0])
    by_base = {row["base"]: row for row in rows()}
    for name in NAMES:
        for where, pair in made.swaps[name].pairs:
            row = by_base[marked(pair.base)]
            assert (marked(pair.source), pair.answer) == (row[f"source_{name}"], row[f"target_{name}"]), where


def test_base_prompts_that_the_task_does_not_have_are_dealt_too(by_columns):
    made = pairs_of(by_columns[0])
    other = with_swaps(OwnPairs(made.pairs[:1], made.positions), made.swaps)
    counts = [other.available_swaps(0, split) for split in ("mask_training", "mask_validation", "mask_test")]
    assert sum(counts) in (COUNT, COUNT - 1)  # the task's own may be one of ablation
    assert min(counts) >= COUNT // 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda some: some[1:], "object.jsonl:1: desideratum label lacks row 1 with this base prompt of"),
        (lambda some: [*some, some[0]], f"label.jsonl:{COUNT + 1}: desideratum object lacks row 2 with this base"),
        (lambda some: [some[0].replace('"target": "', '"target": "two '), *some[1:]], "label.jsonl:1: target: 'two "),
        (lambda some: [some[0].replace('"target"', '"answer"'), *some[1:]], "label.jsonl:1: no column 'target', which"),
        (lambda some: [some[0].replace("{query_label|", "{asked|"), *some[1:]], "label.jsonl:1: position 'asked' is"),
    ],
)  # fmt: skip
def test_a_wrong_row_of_a_desideratum_is_told(change, message: str, two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, FILES)
    lines = (tmp_path / "label.jsonl").read_text().splitlines()
    (tmp_path / "label.jsonl").write_text("\n".join(change(lines)))
    with pytest.raises(TaskError) as error:
        next(run(plan(load(path)), tmp_path / "runs"))
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


def test_an_id_changes_with_a_desideratums_rows_and_columns(two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, FILES)

    def ids(task: str = FILES) -> str:
        return plan(parse(STUDY.replace("TASK", task), "x.yaml", folder=path.parent)).job("masks").id

    first, others = ids(), [ids(COLUMNS), ids(FILES.replace("file: label", "columns: {target: base}, file: label"))]
    (tmp_path / "label.jsonl").write_text((tmp_path / "label.jsonl").read_text() + "\n")
    assert len({first, *others, ids()}) == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "masks.training_examples=12",
            "experiments.masks.training_examples: 12 pairs, but each desideratum has 11",
        ),
        (
            "masks.test_examples=17",
            "experiments.masks.test_examples: 17 pairs, but each desideratum has 16",
        ),
        (
            "roles.draws=5",
            "experiments.roles.examples: 4 pairs in each of 5 draws, but each desideratum has 16",
        ),
    ],
)
def test_more_pairs_of_a_desideratum_than_there_are_is_told_before_any_work(by_columns, setting: str, message: str):
    with pytest.raises(TaskError) as error:
        next(run(plan(load(by_columns[0], [f"experiments.{setting}"])), by_columns[0].parent / "other"))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("experiment", "place", "message"),
    [
        ("{method: dcm, circuit: found}", "desiderata", "missing; its default is for the boxes task"),
        ("{method: dcm, circuit: found, desiderata: [objct]}", "desiderata.0", "found 'objct'; did you mean 'object'?"),
        ("{method: cmap, donor: one, recipient: two, circuit: found, roles: masks}", "main_role", "missing; its"),
        ("{method: cmap, donor: one, recipient: two, circuit: found, roles: masks, main_role: {a: lable}}",
         "main_role.a", "found 'lable'; did you mean 'label'?"),
        ("{method: activation_patching, roles: published/goat, models: [one]}", "roles", "published/goat is for the"),
        ("{method: activation_patching, roles: masks, models: [one], desiderata: [label]}", "", ""),
    ],
)  # fmt: skip
def test_what_an_experiment_says_of_own_desiderata_is_checked(experiment: str, place: str, message: str):
    text = f"{STUDY.replace('TASK', FILES)}  more: {experiment}\n"
    if not place:
        assert parse(text, "own.yaml").experiments["more"]
        return
    with pytest.raises(ManifestError) as error:
        parse(text, "own.yaml")
    (told,) = str(error.value).splitlines()
    assert f": experiments.more.{place}: {message}" in told
    assert "accepted" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('("object", "label")', '("object", "object")'), "Given.desiderata: found ('object', 'object'); acc"),
        (("def desideratum(", "def swapped("), "Given has desiderata but no method desideratum; accepted: des"),
        (("return desideratum(Boxes(3), name,", "return desideratum(Boxes(len(name) - 2), name,"),
         "experiments.masks.training_examples: desideratum label of mask_training: example 1 has another base"),
        (("return desideratum(Boxes(3), name, tokenizer, count, seed, split)",
          "self.n = getattr(self, 'n', 0) + 1; return desideratum(Boxes(3), name, tokenizer, count, self.n, split)"),
         "experiments.masks.training_examples: desideratum object of mask_training: a second call gave other examples"),
        (("return desideratum(Boxes(3), name, tokenizer, count, seed, split)",
          "return desideratum(Boxes(3), name, tokenizer, count, seed, 'mask_test')"),
         "experiments.masks.test_examples: example 1 of mask_test has the base prompt of experiments.masks.train"),
        (("return desideratum(Boxes(3), name, tokenizer, count, seed, split)", "return []"),
         "experiments.masks: task given:Given: desideratum object of mask_training: found 0; accepted: 1, as"),
        (("return desideratum(Boxes(3),", "raise KeyError(name) or ("),
         "experiments.masks: task given:Given: desideratum object of mask_training: KeyError: 'object' (given.py:12)"),
    ],
)  # fmt: skip
def test_a_class_whose_desiderata_cannot_be_used_is_told(change, message: str, two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, CLASS)
    (tmp_path / "given.py").write_text(GIVEN.replace(*change))
    with pytest.raises(NnsightEtError) as error:
        next(run(plan(load(path)), tmp_path / "runs"))
    assert message in str(error.value)
