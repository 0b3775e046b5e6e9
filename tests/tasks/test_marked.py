"""Pairs written with marks: what they mean, and what is wrong with one, by line and character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.tasks.encoding import MarkedText
from nnsight_et.tasks.marked import check_alike, encoded_pair, marked_pair, marked_text, read_pairs
from tests.helpers.tiny_model import tokenizer

BASE = "The {{object|apple}} is in Box {{label|B}}. Box {{asked|B}} contains the"
SOURCE = "The {{object|book}} is in {{label|Box F}}, the car is in Box C. Box {{asked|D}} contains the"


def test_marks_leave_the_text_and_name_its_spans():
    marked = marked_text("The {{thing|red apple}}{{dot|.}} {a} Box", "here")
    assert marked == MarkedText("The red apple. {a} Box", {"thing": (4, 13), "dot": (13, 14)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("The {{a|b}} {{c|d", "here, character 13: '{{' is not closed"),
        ("The b}} c", "here, character 6: '}}' without '{{'"),
        ("The {{a|b {{c|d}}}}", "here, character 11: '{{' inside a mark"),
        ("The {{a}} c", "here, character 5: found {{a}}"),
        ("The {{a|}} c", "here, character 5: found {{a|}}"),
        ("The {{2a|c}}", "here, character 5: found {{2a|c}}"),
        ("The {{last|c}}", "here, character 5: 'last' is always"),
        ("{{a|b}} {{a|c}}", "here, character 14: a second mark 'a'"),
    ],
)
def test_a_wrong_mark_is_told_by_its_character(text: str, message: str):
    with pytest.raises(TaskError) as error:
        marked_text(text, "here")
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


def test_a_position_is_the_last_token_of_its_mark():
    example = encoded_pair(marked_pair(BASE, SOURCE, "apple", "pair"), tokenizer(), "pair")
    words = tokenizer().convert_ids_to_tokens(list(example.base.tokens))
    assert words == ["<s>", "The", "apple", "is", "in", "Box", "B", ".", "Box", "B", "contains", "the"]
    assert example.base.positions == {"object": 2, "label": 6, "asked": 9, "last": 11}
    assert example.source.positions == {"object": 2, "label": 6, "asked": 16, "last": 18}
    assert example.answer == tokenizer().convert_tokens_to_ids("apple")


@pytest.mark.parametrize(
    ("base", "source", "answer", "message"),
    [
        (BASE, SOURCE.replace("{{label|Box F}}", "F"), "apple", "position 'label' is marked only in the base"),
        ("The apple", "The {{a|car}}", "is", "position 'a' is marked only in the source"),
        ("The apple", "The car", " ", "is empty"),
        ("The apple", " ", "is", "is empty"),
        ("The {{a|app}}le", "The {{a|car}}", "is", "a: 'app' is not made of whole tokens of this tokenizer (found"),
        ("The app{{a|le is}}", "The {{a|car}}", "in", "(found 'apple', 'is')"),
        ("The apple", "The car", "is in", "answer: 'is in' is not one token (found 'is', 'in')"),
        ("The apple", "The car", "zebra", "answer: 'zebra' is not one token (found '<unk>')"),
        ("The zebra is", "The car", "in", "does not know 'zebra'"),
        ("The apple", "The zebra is", "in", "does not know 'zebra'"),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_fit_is_named(base: str, source: str, answer: str, message: str):
    with pytest.raises(TaskError) as error:
        encoded_pair(marked_pair(base, source, answer, "pairs[3]"), tokenizer(), "pairs[3]")
    assert str(error.value).startswith("pairs[3]")
    assert message in str(error.value)
    assert "accepted: " in str(error.value)


def lines(*pairs: object) -> str:
    return "\n".join(pair if isinstance(pair, str) else json.dumps(pair) for pair in pairs)


GOOD = {"base": BASE, "source": SOURCE, "answer": "apple"}


def test_a_file_of_pairs_is_read_in_its_order(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\ufeff" + lines(GOOD, "", GOOD | {"answer": "car"}) + "\n", encoding="utf-8")
    assert [pair.answer for pair in read_pairs(path)] == ["apple", "car"]
    assert read_pairs(path)[0] == marked_pair(BASE, SOURCE, "apple", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(GOOD, "{"), "pairs.jsonl:2: not JSON"),
        (lines(GOOD, "", [1]), "pairs.jsonl:3: not an object"),
        (lines({"base": "a", "source": "b"}), "pairs.jsonl:1: the keys 'base', 'source'"),
        (lines(GOOD | {"answer": 3}), "pairs.jsonl:1: answer: found 3"),
        (lines(GOOD, GOOD | {"base": "The {{a|b"}), "pairs.jsonl:2: base, character 5: '{{' is not closed"),
        (lines(GOOD, {"base": "a", "source": "b", "answer": "c"}), "pairs.jsonl:2: no position 'asked', which"),
        ("\n\n", "pairs.jsonl: no pairs"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_told_by_its_number(tmp_path: Path, text: str, message: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        read_pairs(path)
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_pairs(tmp_path / "bytes.jsonl")


def test_all_pairs_have_the_same_positions():
    some, other = marked_pair(BASE, SOURCE, "apple", ""), marked_pair("The {{x|car}}", "The {{x|book}}", "is", "")
    check_alike([some, some], ["a", "b"])
    with pytest.raises(TaskError, match="b: no position 'asked', which a has"):
        check_alike([some, other], ["a", "b"])
