"""What a finding is outside a notebook: files of its figures, and text."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import nnsight_et as et
from nnsight_et.api.findings import Finding
from nnsight_et.core.errors import TaskError
from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Series
from tests.helpers.tiny_model import hf_llama, tokenizer


def figure(name: str) -> FigureGroup:
    bars = Bars("", ("circuit",), (Series("accuracy", (DataPoint(0.5, None, "0.5"),)),), "accuracy")
    return FigureGroup(name, f"title of {name}", "caption", (bars,))


def test_a_figure_is_saved_as_the_name_says(tmp_path: Path):
    found = Finding("found", (), (figure("one"),))
    heads = {"a.svg": b"<svg", "a.pdf": b"%PDF", "a.png": b"\x89PNG"}
    for name, head in heads.items():
        assert found.save(tmp_path / "new" / name) == [tmp_path / "new" / name]
        assert (tmp_path / "new" / name).read_bytes().lstrip().startswith(head)
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(heads)


def test_several_figures_have_their_names_added(tmp_path: Path):
    found = Finding("found", (), (figure("one"), figure("two")))
    assert [path.name for path in found.save(f"{tmp_path}/a.svg")] == ["a-one.svg", "a-two.svg"]
    assert "title of two" in (tmp_path / "a-two.svg").read_text()


def test_rows_are_saved_as_csv_and_all_of_it_as_a_page(tmp_path: Path):
    rows = ({"head": "L5H0", "score": -0.5, "score_interval": [-0.7, -0.3]}, {"head": "L4H1", "kept": True})
    found = Finding("heads < all", rows, (figure("one"),))
    assert found.save(tmp_path / "a.csv") == [tmp_path / "a.csv"]
    with (tmp_path / "a.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0] == {"head": "L5H0", "score": "-0.5", "score_low": "-0.7", "score_high": "-0.3", "kept": ""}
    assert read[1]["head"] == "L4H1"
    assert read[1]["kept"] == "True"
    found.save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<title>heads &lt; all</title>" in page
    assert "<svg" in page
    assert "<td" in page
    assert Finding("none", ({"a": 1},)).save(tmp_path / "b.csv")[0].read_text() == "a\n1\n"


@pytest.mark.parametrize(
    ("found", "name", "message"),
    [
        (
            Finding("found", (), (figure("one"),)),
            "a.htm",
            "path: .*a.htm.; accepted: a name that ends in .csv, .html, .p",
        ),
        (Finding("found", (), (figure("one"),)), "a", "accepted: a name that ends in .csv, .html, .pdf, .png, .svg"),
        (Finding("found", ()), "a.svg", r"found: there is no figure; its numbers are in .rows"),
    ],
)
def test_what_cannot_be_saved_is_an_error_and_writes_nothing(found: Finding, name: str, message: str, tmp_path: Path):
    with pytest.raises(TaskError, match=message):
        found.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_figures_print_in_a_line_and_the_strongest_head_against_the_answer_is_named():
    found = et.path_patch(et.load("llama-tiny"), et.Pairs.boxes(12))
    assert repr(found.figures).count("\n") == 0
    assert len(repr(found.figures)) < 200
    named = re.search(r"The strongest against the answer is (L\dH\d): \+0\.\d+ \(top\(by=\"size\"\)\)", repr(found))
    assert named, repr(found)
    assert named[1] == max(found.rows, key=lambda row: row["score"])["head"]


def test_no_head_is_named_against_the_answer_where_none_is_or_the_metric_has_no_sign():
    model = et.load(hf_llama(), tokenizer())
    pairs = et.Pairs.boxes(12).scored_by("kl")
    assert "against the answer" not in repr(et.path_patch(model, pairs))


def test_scores_of_a_single_pair_have_no_interval(tmp_path: Path):
    model = et.load(hf_llama(), tokenizer())
    pair = ("The car is in Box F. Box F contains the", "The fan is in Box C. Box C contains the", "car")
    scores = et.path_patch(model, et.Pairs.of([pair]), at="last", keep=2)
    assert "nan" not in str(scores) + scores._repr_html_()


def test_attention_stands_beside_the_scores_of_the_heads():
    model, pairs = et.load("llama-tiny"), et.Pairs.boxes(6)
    scores = et.path_patch(model, pairs, keep=3)
    found = et.attention(model, pairs, scores)
    positions = ["correct_object", "previous_query_label", "query_label", "last", "first token", "other"]
    assert list(found.rows[0]) == ["head", "group", "at", "score", "score_interval", *positions]
    assert [row["head"] for row in found.rows] == list(map(str, scores.kept))
    assert [row["score"] for row in found.rows] == [row["score"] for row in scores.rows[:3]]
    assert repr(found).splitlines()[1].split()[:4] == ["head", "group", "at", "score"]
    apart = et.HeadGroup("apart", "query_label", (et.Head(3, 0),))
    (other,) = et.attention(model, pairs, apart, scores=scores).rows
    assert other["score"] is None  # the scores are of another position
    assert "score" not in et.attention(model, pairs, apart).rows[0]
    assert et.evaluate(model, pairs, scores, random=0).title == "Circuit of 3 heads in llama-tiny"
