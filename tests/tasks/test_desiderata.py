"""Desiderata: each source is written as in the paper's examples, and each target is what the swap should give."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt, collate
from nnsight_et.core.errors import TaskError
from nnsight_et.tasks.boxes import LABELS, OBJECTS, POSITIONS, Boxes
from nnsight_et.tasks.desiderata import DESIDERATA, VARIANTS, desideratum
from nnsight_et.zoo.tokenizer import UNKNOWN, word_tokenizer

LLAMA = Path(__file__).parents[3] / "shared" / "llama_tokenizer"
COUNT = 40
SEGMENT = re.compile(r"the (\w+),? is (?:not in|contained in the|in) Box ([A-Z])\b|Box ([A-Z]) contains the (\w+)")
POSITIONAL = ("position", *VARIANTS)

WORDS = word_tokenizer()


@pytest.fixture(scope="module", params=["embedded", "llama"])
def tokenizer(request) -> PreTrainedTokenizerBase:
    """The embedded models' tokenizer, and Llama's where it is."""
    if request.param == "embedded":
        return WORDS
    if not LLAMA.is_dir():
        pytest.skip("no Llama tokenizer beside the repository")
    return AutoTokenizer.from_pretrained(LLAMA)


def text_of(prompt: Prompt, words: PreTrainedTokenizerBase) -> str:
    """The prompt's text without the token in front."""
    return str(words.decode(list(prompt.tokens[1:]))).strip()


def word_at(prompt: Prompt, name: str, words: PreTrainedTokenizerBase) -> str:
    """The word at a named position."""
    return str(words.decode([prompt.tokens[prompt.positions[name]]])).strip()


def parsed(text: str) -> tuple[list[str], list[str], str]:
    """The objects and labels of a prompt's segments in their order, and the queried label, read from its text."""
    text = text[0].lower() + text[1:] if text.startswith("The ") else text
    context, query = text.rsplit(". Box ", 1)
    found = [(a or d, b or c) for a, b, c, d in SEGMENT.findall(context)]
    return [thing for thing, _ in found], [label for _, label in found], query.split()[0]


@cache
def made(name: str, words: PreTrainedTokenizerBase, count: int = COUNT, seed: int = 5) -> list[Example]:
    """Examples of a desideratum of seven boxes."""
    return desideratum(Boxes(), name, words, count, seed, "evaluation")


@pytest.mark.parametrize("name", DESIDERATA)
def test_both_prompts_name_the_same_positions_and_mark_single_words(name, tokenizer):
    examples = made(name, tokenizer)
    for example in examples:
        for prompt in (example.base, example.source):
            assert set(prompt.positions) == set(POSITIONS)
            assert prompt.positions["last"] == len(prompt.tokens) - 1 == prompt.positions["query_label"] + 2
            assert word_at(prompt, "correct_object", tokenizer) in OBJECTS
            assert word_at(prompt, "query_label", tokenizer) in LABELS
        assert tokenizer.decode([example.answer]).strip() in OBJECTS
        assert word_at(example.base, "previous_query_label", tokenizer) == word_at(
            example.base, "query_label", tokenizer
        )
    assert len(collate(examples).answer) == COUNT


@pytest.mark.parametrize("name", DESIDERATA)
def test_base_and_source_share_nothing_but_the_label_that_is_asked_for(name, tokenizer):
    for example in made(name, tokenizer):
        objects, labels, query = parsed(text_of(example.base, tokenizer))
        others, other_labels, other_query = parsed(text_of(example.source, tokenizer))
        added = name in VARIANTS and VARIANTS[name].added is not None
        assert len(set(objects)) == len(set(labels)) == 7
        assert len(set(others)) == len(set(other_labels)) == 7 + added
        assert not set(objects) & set(others)
        assert not set(labels) & set(other_labels)
        assert query in labels
        assert (other_query in labels) == (name == "label")
        assert (other_query in other_labels) == (name != "label")


def test_an_object_target_is_the_sources_own_answer(tokenizer):
    for example in made("object", tokenizer):
        objects, labels, query = parsed(text_of(example.source, tokenizer))
        answer = tokenizer.decode([example.answer]).strip()
        assert answer == objects[labels.index(query)] == word_at(example.source, "correct_object", tokenizer)
        assert example.answer == example.source.tokens[example.source.positions["correct_object"]]
        assert word_at(example.source, "previous_query_label", tokenizer) == query


def test_a_label_target_is_what_the_base_has_in_the_box_the_source_asks_for(tokenizer):
    segments = set()
    for example in made("label", tokenizer):
        objects, labels, query = parsed(text_of(example.base, tokenizer))
        _, sources, asked = parsed(text_of(example.source, tokenizer))
        assert asked != query
        answer = example.base.tokens.index(example.answer)
        assert tokenizer.decode([example.base.tokens[answer]]).strip() == objects[labels.index(asked)]
        segments.add(sources.index(word_at(example.source, "previous_query_label", tokenizer)))
    assert segments == set(range(7))


@pytest.mark.parametrize("name", POSITIONAL)
def test_a_position_target_is_what_the_base_has_at_the_sources_place(name, tokenizer):
    pairs = set()
    for example in made(name, tokenizer, count=150):
        objects, labels, query = parsed(text_of(example.base, tokenizer))
        others, other_labels, other_query = parsed(text_of(example.source, tokenizer))
        asked = other_labels.index(other_query)
        assert word_at(example.source, "correct_object", tokenizer) == others[asked]
        assert word_at(example.source, "previous_query_label", tokenizer) == other_query
        segment = asked - 1 if name == "segment_at_start" else asked
        target = (segment + 1) % 7 if name == "incorrect_segment" else segment
        own = labels.index(query)
        assert tokenizer.decode([example.answer]).strip() == objects[target]
        assert example.answer in example.base.tokens
        assert own not in (segment, target)
        pairs.add((own, target))
    assert len(pairs) > 30  # of 42, or of 35 where the next segment is meant


@pytest.mark.parametrize("name", ["tokens_between", "altered_order", "altered_association", "boxes_before"])
def test_these_variants_alter_the_queried_segment_only(name, tokenizer):
    mark = {"tokens_between": "contained", "altered_association": "not", "boxes_before": "additional"}.get(name)
    for example in made(name, tokenizer):
        text = text_of(example.source, tokenizer)
        thing = word_at(example.source, "correct_object", tokenizer)
        if mark is None:
            assert len(re.findall(rf"Box [A-Z] contains the {thing}\b", text)) == 1
            assert text.count("is in Box") == 6
        else:
            assert text.split().count(mark) == 1
            assert re.search(rf"Box AA, the {thing} is|the {thing} is (not|contained) in", text, re.IGNORECASE)


@pytest.mark.parametrize("name", DESIDERATA)
def test_the_embedded_tokenizer_knows_every_word(name):
    for example in made(name, WORDS):
        assert WORDS.convert_tokens_to_ids(UNKNOWN) not in example.base.tokens + example.source.tokens


def test_all_desiderata_of_a_seed_share_their_base_prompts():
    bases = {name: [example.base for example in made(name, WORDS)] for name in DESIDERATA}
    assert all(found == bases["object"] for found in bases.values())
    assert len({base.tokens for base in bases["object"]}) == COUNT
    position, variant = made("position", WORDS), made("altered_order", WORDS)
    assert [example.answer for example in position] == [example.answer for example in variant]
    assert bases["object"] != [example.base for example in made("object", WORDS, seed=6)]


def test_fewer_examples_are_the_first_of_more():
    for name in DESIDERATA:
        assert made(name, WORDS, count=5) == made(name, WORDS)[:5]


def test_every_label_is_asked_for_and_every_segment():
    examples = made("label", WORDS, count=400)
    assert {word_at(example.base, "query_label", WORDS) for example in examples} == set(LABELS)
    assert {word_at(example.source, "query_label", WORDS) for example in examples} == set(LABELS)
    assert {example.base.positions["previous_query_label"] for example in examples} == {6 + 7 * i for i in range(7)}


def test_splits_share_no_context():

    def contexts(split: str) -> set[str]:
        examples = desideratum(Boxes(), "position", WORDS, 100, 5, split)
        prompts = [prompt for example in examples for prompt in (example.base, example.source)]
        return {text_of(prompt, WORDS).rsplit(". ", 1)[0] for prompt in prompts}

    assert len(contexts("mask_training")) == 200
    assert not contexts("mask_training") & contexts("mask_validation")


@pytest.mark.parametrize("boxes", [3, 12])
@pytest.mark.parametrize("name", DESIDERATA)
def test_other_numbers_of_boxes_work(name, boxes):
    for example in desideratum(Boxes(boxes), name, WORDS, 10, 1, "evaluation"):
        own = example.base.tokens[example.base.positions["correct_object"]]
        assert example.answer != own
        assert (example.answer in example.base.tokens) == (name != "object")


def test_what_cannot_be_made_is_refused_by_name():
    with pytest.raises(TaskError, match="no desideratum 'postion'; did you mean 'position'"):
        desideratum(Boxes(), "postion", WORDS, 1, 0, "evaluation")
    with pytest.raises(TaskError, match=r"task\.boxes: 2 boxes leave no target"):
        desideratum(Boxes(2), "incorrect_segment", WORDS, 1, 0, "evaluation")
    assert len(desideratum(Boxes(2), "position", WORDS, 3, 0, "evaluation")) == 3
    few = Boxes(objects=OBJECTS[:14])
    with pytest.raises(
        TaskError, match=r"task\.objects: 14 different objects; accepted: at least 15 for an additional"
    ):
        desideratum(few, "segment_at_end", WORDS, 1, 0, "evaluation")
