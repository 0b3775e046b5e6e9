"""Prompts read back: what they ask for looks drawn at random, and ablation prompts of a file are apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from nnsight_et.manifest import BoxesTask
from nnsight_et.measuring.reading import SplitsSeen, file_findings, reader_of
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum
from nnsight_et.tasks.own_pairs import OwnPairs
from tests.helpers.methods_study import OBJECTS, models_in
from tests.helpers.own_pairs_study import EVERY, MANIFEST, lines, results
from tests.helpers.own_pairs_study import TASK as TASK_OF_FILE
from tests.helpers.tiny_model import tokenizer

BOXES = Boxes(2, tuple(OBJECTS))
TASK = BoxesTask(kind="boxes", boxes=2, objects=tuple(OBJECTS))
WORDS = tokenizer()


def wrong(examples, swapped: str | None) -> list[str]:
    reader = reader_of(TASK, WORDS)
    assert reader is not None
    return [one.where for one in SplitsSeen().draws(reader, examples, swapped) if one.gap > 0]


@pytest.mark.parametrize("name", ["object", "label", "position"])
def test_segments_that_are_drawn_at_random_pass(name):
    assert wrong(desideratum(BOXES, name, WORDS, 80, 0, "discovery"), name) == []


def test_one_segment_that_every_base_asks_for_is_told():
    drawn = desideratum(BOXES, "object", WORDS, 160, 0, "discovery")
    first = [one for one in drawn if one.base.positions["correct_object"] < 6]
    assert len(first) > 40
    assert any("(base)" in where for where in wrong(first, "label"))


def test_sources_of_object_that_ask_for_the_bases_segment_are_told():
    drawn = desideratum(BOXES, "object", WORDS, 160, 0, "discovery")
    alike = [one for one in drawn if one.base.positions["correct_object"] == one.source.positions["correct_object"]]
    assert len(alike) > 40
    assert any("source of object" in where for where in wrong(alike, "object"))


def test_the_same_pairs_twice_count_once():
    drawn = desideratum(BOXES, "object", WORDS, 160, 0, "discovery")
    few = [one for one in drawn if one.base.positions["correct_object"] < 6][:12]
    assert wrong(few * 20, "object") == []


def test_ablation_prompts_of_a_file_are_apart_from_the_measured_pairs():
    pairs = OwnPairs.of("\n".join(lines()), "pairs.jsonl", ("object", "label", "asked"))
    measured, own = pairs.examples(WORDS, 4, 0, "evaluation"), pairs.prompts(WORDS, 4, 0, "ablation")

    def found(prompts) -> list[float]:
        return [one.gap for one in file_findings(pairs, WORDS, measured, prompts)]

    assert found(own) == [0]
    assert found([own[0], measured[0].source]) != [0]


def test_a_table_of_pairs_is_read_by_its_columns_when_prompts_are_ablated(tmp_path: Path):
    texts = [json.loads(line) for line in lines()]
    table = [["clean", "corrupted", "word"], *([one["base"], one["source"], one["answer"]] for one in texts)]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    models = models_in(tmp_path)
    task = TASK_OF_FILE.replace("pairs.jsonl", "pairs.csv, columns: {base: clean, source: corrupted, answer: word}")
    text = MANIFEST.replace(TASK_OF_FILE, task) + EVERY.splitlines(keepends=True)[0]
    path = models / "own.yaml"
    path.write_text(text)
    found = results(path)
    assert found["table1"].header.self_check.on
