"""The boxes task: its text, its named positions under several tokenizers, its splits, and what it refuses."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from nnsight_et.core.batch import collate
from nnsight_et.core.errors import TaskError
from nnsight_et.tasks.boxes import LABELS, OBJECTS, POSITIONS, SPLITS, Boxes, Context
from nnsight_et.tasks.encoding import MarkedText, encoded_prompt
from tests.helpers.tiny_model import PAD, tokenizer

LLAMA_TOKENIZER = Path(__file__).parents[3] / "shared" / "llama_tokenizer"
LENGTH = {n: 7 * n + 5 for n in range(2, 13)}


@pytest.fixture(scope="module", params=["words", "llama"])
def words(request):
    """A word-level tokenizer, and Llama's own where it is at hand."""
    if request.param == "words":
        return tokenizer()
    if not LLAMA_TOKENIZER.is_dir():
        pytest.skip("the Llama tokenizer is not here")
    return AutoTokenizer.from_pretrained(LLAMA_TOKENIZER)


def text_of(prompt, words) -> str:
    """The prompt's text, whatever spaces the tokenizer puts around marks."""
    return re.sub(r"\s+([,.])", r"\1", words.decode(prompt.tokens, skip_special_tokens=True)).strip()


def parsed(prompt, words) -> tuple[list[str], list[str], str]:
    """Objects, labels and queried label, read back from the prompt's text."""
    segments, query = text_of(prompt, words).split(". ")
    pairs = [re.fullmatch(r"[Tt]he (\w+) is in Box ([A-Z])", segment) for segment in segments.split(", ")]
    asked = re.fullmatch(r"Box ([A-Z]) contains the", query)
    assert asked
    assert all(pairs)
    return [pair[1] for pair in pairs], [pair[2] for pair in pairs], asked[1]  # type: ignore[index]


def word_at(prompt, name: str, words) -> str:
    return words.decode([prompt.tokens[prompt.positions[name]]]).strip()


def test_a_prompt_reads_as_in_the_paper():
    context = Context(("apple", "computer"), ("F", "Q"))
    assert context.text == "The apple is in Box F, the computer is in Box Q."
    assert context.query("F", 0).text == "The apple is in Box F, the computer is in Box Q. Box F contains the"


def test_the_words_of_the_task_are_those_of_the_paper():
    assert len(OBJECTS) == len(set(OBJECTS)) == 85
    assert "".join(LABELS) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize("boxes", LENGTH)
def test_positions_are_where_the_words_are_for_any_number_of_boxes(boxes, words):
    for example in Boxes(boxes).examples(words, 12, 3, "discovery"):
        base = example.base
        objects, labels, query = parsed(base, words)
        segment = labels.index(query)
        assert len(base.tokens) == LENGTH[boxes]
        assert len(objects) == boxes
        assert tuple(base.positions) == POSITIONS
        assert base.positions["previous_query_label"] == 6 + 7 * segment
        assert base.positions["correct_object"] == 6 + 7 * segment - 4
        assert base.positions["last"] == len(base.tokens) - 1
        assert base.positions["query_label"] == len(base.tokens) - 3
        assert words.decode([base.tokens[7 * boxes]]).strip() == "."
        assert [word_at(base, name, words) for name in POSITIONS] == [objects[segment], query, query, "the"]
        assert words.decode([example.answer]).strip() == objects[segment]


def test_seven_boxes_are_54_tokens_with_labels_at_6_plus_7i_and_the_full_stop_at_49(words):
    for example in Boxes().examples(words, 20, 0, "evaluation"):
        for prompt in (example.base, example.source):
            _, labels, _ = parsed(prompt, words)
            assert len(prompt.tokens) == 54
            assert prompt.tokens[0] == words.bos_token_id
            assert [words.decode([prompt.tokens[6 + 7 * i]]).strip() for i in range(7)] == labels
            assert words.decode([prompt.tokens[49]]).strip() == "."
            assert (prompt.positions["query_label"], prompt.positions["last"]) == (51, 53)


def test_a_source_shares_nothing_with_its_base_and_asks_for_a_box_that_is_nowhere(words):
    for boxes in (2, 7, 12):
        drawn = set()
        for example in Boxes(boxes).examples(words, 40, 1, "discovery"):
            objects, labels, _ = parsed(example.base, words)
            others, letters, query = parsed(example.source, words)
            assert not set(objects) & set(others)
            assert not set(labels) & set(letters)
            assert query not in labels
            assert query not in letters
            at = example.source.positions
            assert word_at(example.source, "previous_query_label", words) in letters
            assert at["correct_object"] == at["previous_query_label"] - 4
            assert word_at(example.source, "query_label", words) == query
            drawn.add(at["previous_query_label"])
        assert len(drawn) > 1  # one of the source's labels, not always the same


def test_ablation_prompts_ask_for_a_box_that_is_not_there(words):
    prompts = Boxes(5).prompts(words, 30, 2, "ablation")
    assert len({prompt.tokens for prompt in prompts}) == 30
    for prompt in prompts:
        _, labels, query = parsed(prompt, words)
        assert query not in labels


def test_the_seed_decides_the_data():
    words, task = tokenizer(), Boxes(3)
    assert task.examples(words, 6, 5, "discovery") == task.examples(words, 6, 5, "discovery")
    assert task.examples(words, 6, 5, "discovery") != task.examples(words, 6, 6, "discovery")
    assert task.prompts(words, 6, 5, "ablation") == task.prompts(words, 6, 5, "ablation")


def test_fewer_examples_are_the_first_of_more():
    words, task = tokenizer(), Boxes(4)
    assert task.examples(words, 9, 5, "discovery")[:4] == task.examples(words, 4, 5, "discovery")


def test_a_context_belongs_to_one_split_whatever_the_seed():
    task, of = Boxes(2, OBJECTS[:4]), {}
    for split in SPLITS:
        for seed in range(3):
            draw = random.Random(seed)
            for _ in range(200):
                context = task.context(draw, split)
                assert of.setdefault(context.text, split) == split
    assert set(of.values()) == set(SPLITS)


def test_bases_and_sources_are_of_the_split_that_was_asked_for():
    words = tokenizer()
    for split in SPLITS:
        for example in Boxes(3).examples(words, 5, 7, split):
            for prompt in (example.base, example.source):
                objects, labels, _ = parsed(prompt, words)
                assert Context(tuple(objects), tuple(labels)).split == split


def test_no_base_context_is_there_twice_and_too_few_are_an_error():
    words, few = tokenizer(), Boxes(2, OBJECTS[:4])
    bases = [example.base.tokens[:-4] for example in few.examples(words, 300, 0, "discovery")]
    assert len(set(bases)) == 300
    with pytest.raises(TaskError, match=r"only \d+ contexts of the split discovery"):
        few.examples(words, 5000, 0, "discovery")


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_name_the_same_words_in_a_padded_batch(side, words):
    examples = [Boxes(boxes).examples(words, 1, 0, "discovery")[0] for boxes in (3, 2, 4)]
    for run, prompts in (
        (collate(examples, PAD, side).base, [one.base for one in examples]),
        (collate(examples, PAD, side).source, [one.source for one in examples]),
    ):
        for row, prompt in enumerate(prompts):
            for name in POSITIONS:
                assert run.tokens[row, run.positions[name][row]] == prompt.tokens[prompt.positions[name]]
            places = run.position_ids[row, run.mask[row].bool()]
            assert places.tolist() == list(range(len(prompt.tokens)))


def test_a_tokenizer_without_a_first_token_moves_every_position_by_one():
    with_first, without = tokenizer(), tokenizer()
    without.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    one, other = (Boxes(3).examples(words, 1, 0, "discovery")[0].base for words in (with_first, without))
    assert one.tokens[1:] == other.tokens
    assert {name: place - 1 for name, place in one.positions.items()} == other.positions


@pytest.mark.parametrize("boxes", [0, 1, 13, 14])
def test_a_number_of_boxes_that_cannot_be_labelled_is_refused(boxes):
    with pytest.raises(TaskError, match=rf"task.boxes: {boxes} boxes need {2 * boxes + 1} .*accepted: 2 to 12"):
        Boxes(boxes)


def test_too_few_objects_are_refused():
    with pytest.raises(TaskError, match=r"task.objects: 5 different objects; accepted: at least 6"):
        Boxes(3, (*OBJECTS[:5], OBJECTS[0]))


def test_an_unknown_split_is_refused_with_the_closest():
    with pytest.raises(TaskError, match=r"no split 'discover'; did you mean 'discovery'\?"):
        Boxes(2).examples(tokenizer(), 1, 0, "discover")


def test_an_object_of_two_tokens_is_refused_by_name(words):
    with pytest.raises(TaskError, match=r"'ice cream' is not one token of this tokenizer \(found .*ice', .*accepted"):
        Boxes(2, (*OBJECTS[:4], "ice cream")).examples(words, 1, 0, "discovery")


def test_an_object_the_tokenizer_does_not_know_is_refused(words):
    with pytest.raises(TaskError, match="'zyzzyva' is not one token"):
        Boxes(2, (*OBJECTS[:4], "zyzzyva")).examples(words, 1, 0, "discovery")


def test_a_span_is_one_whole_token():
    assert encoded_prompt(MarkedText("The apple", {"thing": (4, 9)}), tokenizer()).positions == {"thing": 2, "last": 2}
    for start, end in ((4, 6), (3, 4), (0, 9)):  # "ap", a space, and both words
        with pytest.raises(TaskError, match=r"thing: .* is not one token"):
            encoded_prompt(MarkedText("The apple", {"thing": (start, end)}), tokenizer())
