"""A manifest's task of own pairs: what is refused, and where it is told to be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_et.core.errors import ManifestError, NnsightEtError, TaskError
from nnsight_et.manifest import load, parse
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from nnsight_et.tasks.own_pairs import OwnPairs
from tests.helpers.commands import et
from tests.helpers.own_pairs_study import MANIFEST, TASK, lines, pair, written
from tests.helpers.tiny_model import tokenizer


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda path: path.unlink(), "(No such file or directory)"),
        (lambda path: path.write_bytes(b"\xff{}"), "is not text in UTF-8 (byte 0)"),
        (lambda path: (path.unlink(), path.mkdir()), "it is not a file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_by_the_manifests_line(made, message: str, two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, MANIFEST.replace("file:", "\n  file:"))
    made(tmp_path / "pairs.jsonl")
    for command in ("plan", "run"):
        shown = et(command, path, "--out", tmp_path / "runs")
        told = shown.output.replace("\n", " ")
        assert (shown.exit_code, "own.yaml:4: task.file: " in told, message in told) == (2, True, True), shown.output
    assert "accepted: a file of JSON lines" in told


def test_a_file_with_too_many_bytes_is_not_read(two_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnsight_et.rows.read.FILE_LIMIT", 100)
    with pytest.raises(ManifestError, match=r"own.yaml:3: task.file: .* bytes; accepted: at most 100"):
        plan(load(written(tmp_path, two_models)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "pairs.jsonl:17: not JSON"),
        (json.dumps(pair(0) | {"answer": "two words"}), "pairs.jsonl:17: answer: 'two words' is not one token"),
        (json.dumps(pair(0)).replace("{{asked|A}}", "A").replace("{{asked|Y}}", "Y"), "no position 'asked', which"),
        (json.dumps(pair(0)).replace("asked|", "seen|"), "position 'seen' is marked, but task.positions does not list"),
        (json.dumps(pair(0)).replace("{{object|book", "{{object|zebra"), "does not know 'zebra'"),
        (json.dumps(pair(0)).replace("{{label|A}}", "{{asked|A}}", 1).replace("Box {{asked|A}} c", "Box {{label|A}} c"),
         "base: positions in the order object, asked, label; accepted: the order of task.positions, object"),
        (json.dumps(pair(0)).replace("{{asked|A}} contains the", "A contains {{asked|the}}"),
         "base: positions 'asked' and 'last' are the same token"),
        (json.dumps(pair(0)).replace("{{asked|Y}} contains the", "Y contains {{asked|the}}"),
         "source: positions 'asked' and 'last' are the same token"),
        (json.dumps(pair(0) | {"base": "a {{object|b", "source": "c"}), "base, character 3: '{{' is not closed"),
        (json.dumps(pair(0) | {"answer": "\ud83d"}), "answer: half of a character"),
        (json.dumps(pair(0) | {"foil": "two words"}), "foil: 'two words' is not one token"),
        (json.dumps(pair(0) | {"foil": ["car", 5]}), "foil: found ['car', 5]; accepted: a text, or a list of texts"),
        (json.dumps(pair(0) | {"foil": [" "]}), "foil: found [' ']; accepted: a text, or a list of texts, none empty"),
        (json.dumps(pair(0) | {"foil": ["car", "zebra"]}), "foil: 'zebra' is not one token"),
        (json.dumps(pair(0) | {"foil": "\ud83d"}), "foil: half of a character"),
        (json.dumps(pair(0) | {"foil": "book"}), "foil: 'book' is already the answer; accepted: each token"),
        (json.dumps(pair(0) | {"foil": ["car", "car"]}), "foil: 'car' is already foil 'car'"),
        (json.dumps(pair(0) | {"foil": "car", "also_right": ["car"]}), "foil: 'car' is already also_right 'car'"),
        (json.dumps(pair(0) | {"also_right": {"car": 1}}), "also_right: found {'car': 1}; accepted: a text, or a list"),
        (json.dumps(pair(0) | {"foils": "car"}), "under base, source, answer, as in"),
        ("1" * 5000, "not JSON"),
        ('{"a": ' * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_told_before_any_work(line: str, message: str, two_models: Path, tmp_path: Path):
    path = written(tmp_path, two_models, pairs="\n".join([*lines(), line]))
    with pytest.raises(TaskError) as error:
        next(run(plan(load(path)), tmp_path / "runs"))
    assert str(error.value).startswith("pairs.jsonl:17: ")
    assert message in str(error.value)
    assert "accepted: " in str(error.value)


@pytest.mark.parametrize(
    ("experiment", "place", "message"),
    [
        ("{method: dcm, circuit: found}", "method", "dcm needs a task with desiderata, such as boxes or ioi; accepted"),
        ("{method: activation_patching, roles: x, models: [one]}", "method", "needs a task with desiderata"),
        ("{method: knockout, model: one}", "edges", "missing; the default (App. A) is for the boxes task"),
        ("{method: knockout, model: one, edges: [{blind: last, to: random}]}", "edges.0.to", "random means a token"),
        ("{method: knockout, model: one, edges: [{blind: label, to: asked}]}", "edges.0.to", "position before label"),
        ("{method: cmap, donor: one, recipient: two, circuit: found, roles: published/goat}", "roles", "no roles, to"),
        ("{method: cmap, donor: one, recipient: two, circuit: published/goat}", "circuit", "published/goat is for"),
        ("{method: comparison, circuits: [found, published/goat]}", "circuits.1", "accepted for pairs: an experiment"),
        ("{method: comparison, circuits: [found, found], scores: published/goat}", "scores", "published/goat is for"),
        ("{method: attribution, model: one, reproduces: [Table 1]}", "reproduces", "the paper's numbers are for"),
        ("{method: attribution, model: one, at: [correct_object]}", "at.0", "no position 'correct_object'"),
    ],
)  # fmt: skip
def test_what_only_the_boxes_task_has_is_refused_by_name(experiment: str, place: str, message: str):
    with pytest.raises(ManifestError) as error:
        parse(f"{MANIFEST}  more: {experiment}\n", "own.yaml")
    (told,) = str(error.value).splitlines()
    assert told.startswith(f"own.yaml:15: experiments.more.{place}: ")
    assert message in told
    assert "accepted" in told


@pytest.mark.parametrize(
    ("task", "place", "message"),
    [
        ("{kind: pairs}", "task.file", "missing"),
        ("{kind: pairs, file: a, positions: [last]}", "task.positions", "'last' is taken; accepted: each name once"),
        ("{kind: pairs, file: a, positions: [a, b, a]}", "task.positions", "'a' appears twice"),
        ("{kind: pairs, file: a, positions: [2a]}", "task.positions.0", "found '2a'; accepted: a name of letters"),
        ("{kind: pairs, file: a, boxes: 3}", "task.boxes", "no key 'boxes' here; accepted: kind, file, positions"),
        ("{kind: boxes, file: a}", "task.file", "no key 'file' here"),
        ("{kind: pears, file: a}", "task.kind", "found 'pears'; did you mean 'pairs'? accepted: boxes, pairs"),
        ("{kind: [pairs]}", "task", "found a mapping of 1; accepted: a mapping whose kind is one of boxes, pairs"),
        ("pairs.jsonl", "task", "found 'pairs.jsonl'; accepted: a mapping whose kind is one of boxes, pairs"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_read_is_told_by_its_line(task: str, place: str, message: str):
    with pytest.raises(ManifestError) as error:
        parse(MANIFEST.replace(TASK, f"task: {task}"), "own.yaml")
    found = str(error.value).splitlines()[0]
    assert found.startswith(f"own.yaml:3: {place}: ")
    assert message in found


@pytest.mark.parametrize("metric", ["logit_difference", "probability_difference"])
def test_a_metric_that_compares_needs_a_foil_in_every_line(metric: str, two_models: Path, tmp_path: Path):
    text = MANIFEST.replace("examples: 6", f"examples: 6\n    metric: {metric}", 1)
    some = [*lines(15, foil="magnet"), json.dumps(pair(15))]
    path = written(tmp_path, two_models, text, pairs="\n".join(some))
    shown = et("run", path, "--out", tmp_path / "runs")
    told = shown.output.replace("\n", " ")
    assert (shown.exit_code, "pairs.jsonl:16: no foil, and experiments.found.metric: " in told) == (2, True), told
    assert f"{metric} compares the answer with foils; accepted: a foil, such as" in told


def test_a_single_method_takes_its_stages_from_the_boxes_task_alone(two_models: Path, tmp_path: Path, monkeypatch):
    written(tmp_path, two_models)
    monkeypatch.chdir(tmp_path)
    own = ("--set", TASK.replace("task: ", "task=", 1), "--set", "experiments.circuit.examples=4")
    refused = et("path-patch", "--model", "./one", *own)
    assert refused.exit_code == 2
    assert "task.kind: pairs, which has no built-in stages" in refused.output.replace("\n", " ")
    done = et(
        "path-patch", "--model", "./one", "--stage", "{group: a, into: logits, at: last, keep: 2}", *own, "--quiet"
    )
    assert done.exit_code == 0, done.output


MORE = ({}, {"foil": "fish"}, {"foil": ["fish", "drug"], "also_right": []}, {"also_right": ["note"], "foil": "drug"})
CORPUS = "\n".join(json.dumps(pair(index) | more) for index, more in enumerate(MORE))
SNIPPETS = [
    "{{",
    "}}",
    "|",
    '"',
    "\\",
    "{",
    "}",
    "\n",
    "\r",
    "\u2028",
    "\x00",
    "\\ud800",
    "zebra",
    "last",
    " ",
    "é",
    "𝄞",
    "",
]
EDIT = st.tuples(st.integers(0, len(CORPUS)), st.integers(0, 30), st.sampled_from(SNIPPETS) | st.text(max_size=5))


@settings(max_examples=1000, deadline=None)
@given(st.lists(EDIT, min_size=1, max_size=4))
def test_a_mutated_file_gives_a_message_that_names_a_line_or_pairs_that_can_be_used(edits):
    text = CORPUS
    for at, length, new in edits:
        text = text[:at] + new + text[at + length :]
    try:
        made = OwnPairs.of(text, "pairs.jsonl", ("object", "label", "asked"))
        made.longest(WORDS)
    except NnsightEtError as error:
        told = str(error)
    else:
        told = ""
    assert not told or (told.startswith("pairs.jsonl:") and "accepted: " in told), told
    if not told:
        for example in made.examples(WORDS, made.available(0, "discovery"), 0, "discovery"):
            places = example.base.positions
            assert 0 < places["object"] < places["label"] < places["asked"] < places["last"]


WORDS = tokenizer()
