"""The variants' sources, word for word, in the form of the paper's examples (Tables A12, A13)."""

from __future__ import annotations

import re

import pytest

from nnsight_et.tasks.boxes import LABELS, OBJECTS, Context
from nnsight_et.tasks.desiderata import PLAIN, VARIANTS, longer, variant_prompt

BASE = Context(("book", "bell", "cup", "train", "ring", "egg", "bus"), tuple("PDSAKZH"))
SOURCE = Context(("coat", "disk", "fish", "guitar", "leaf", "pipe", "watch"), tuple("MCWBNXG"))
EXAMPLES = {
    # the segment asked for, counted as the paper's tables count it; the target; the source
    "text_at_start": (2, "cup", """
        There are a bunch of boxes containing objects, the coat is in Box M, the disk is in Box C, the fish is in
        Box W, the guitar is in Box B, the leaf is in Box N, the pipe is in Box X, the watch is in Box G. Box W
        contains the"""),
    "text_at_end": (6, "bus", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in Box B, the leaf is in Box
        N, the pipe is in Box X, the watch is in Box G, these are a bunch of boxes containing objects. Box G
        contains the"""),
    "tokens_between": (4, "ring", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in Box B, the leaf is
        contained in the Box N, the pipe is in Box X, the watch is in Box G. Box N contains the"""),
    "segment_at_start": (3, "train", """
        The brick is in Box T, the coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in
        Box B, the leaf is in Box N, the pipe is in Box X, the watch is in Box G. Box B contains the"""),
    "segment_at_end": (6, "bus", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in Box B, the leaf is in Box
        N, the pipe is in Box X, the watch is in Box G, the brick is in Box T. Box G contains the"""),
    "boxes_before": (3, "train", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, there are three additional boxes, Box PP,
        Box BB and Box AA, the guitar is in Box B, the leaf is in Box N, the pipe is in Box X, the watch is in Box
        G. Box B contains the"""),
    "incorrect_segment": (4, "egg", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in Box B, the leaf is in Box
        N, the pipe is in Box X, the watch is in Box G. Box N contains the"""),
    "altered_order": (3, "train", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, Box B contains the guitar, the leaf is in
        Box N, the pipe is in Box X, the watch is in Box G. Box B contains the"""),
    "altered_association": (5, "egg", """
        The coat is in Box M, the disk is in Box C, the fish is in Box W, the guitar is in Box B, the leaf is in Box
        N, the pipe is not in Box X, the watch is in Box G. Box X contains the"""),
    "no_comma": (4, "ring", """
        The coat is in Box M the disk is in Box C the fish is in Box W the guitar is in Box B the leaf is in Box N
        the pipe is in Box X the watch is in Box G. Box N contains the"""),
    "comma_after_object": (3, "train", """
        The coat, is in Box M, the disk, is in Box C, the fish, is in Box W, the guitar, is in Box B, the leaf, is
        in Box N, the pipe, is in Box X, the watch, is in Box G. Box B contains the"""),
}  # fmt: skip


def test_there_is_an_example_of_every_variant():
    assert list(EXAMPLES) == list(VARIANTS)
    assert len(VARIANTS) == 11


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_written_as_in_the_papers_tables(name):
    segment, target, text = EXAMPLES[name]
    variant = VARIANTS[name]
    context = longer(SOURCE, "brick", "T", variant.added) if variant.added else SOURCE
    prompt = variant_prompt(context, segment + (variant.added == "start"), variant)
    assert prompt.text == " ".join(text.split())
    assert BASE.objects[(segment + variant.shift) % 7] == target
    marked = {place: prompt.text[start:end] for place, (start, end) in prompt.spans.items()}
    label = SOURCE.labels[segment]
    assert marked == {"correct_object": SOURCE.objects[segment], "previous_query_label": label, "query_label": label}
    earlier, query = prompt.spans["previous_query_label"][0], prompt.spans["query_label"][0]
    assert [match.start() + 4 for match in re.finditer(rf"Box {label}\b", prompt.text)] == [earlier, query]


@pytest.mark.parametrize("variant", [PLAIN, *VARIANTS.values()])
def test_only_the_first_letter_is_a_capital_whichever_segment_is_asked_for(variant):
    context = Context(OBJECTS[:7], LABELS[:7])
    for segment in range(7):
        prompt = variant_prompt(context, segment, variant)
        assert prompt.text[0] in "TB"
        assert not re.search(r"\bTh", prompt.text[1:])
        assert prompt.text.endswith(f". Box {LABELS[segment]} contains the")


def test_an_altered_first_segment_opens_the_prompt():
    assert variant_prompt(SOURCE, 0, VARIANTS["altered_order"]).text.startswith(
        "Box M contains the coat, the disk is in Box C,"
    )
    assert variant_prompt(SOURCE, 0, VARIANTS["boxes_before"]).text.startswith(
        "There are three additional boxes, Box PP,"
    )


def test_a_plain_source_is_the_boxes_prompt():
    for segment in range(7):
        assert variant_prompt(SOURCE, segment) == SOURCE.query(SOURCE.labels[segment], segment)


def test_a_longer_context_has_its_segment_at_the_end_asked_for():
    context = Context(("pot", "bell"), ("X", "T"))
    assert longer(context, "cup", "B", "start") == Context(("cup", "pot", "bell"), ("B", "X", "T"))
    assert longer(context, "cup", "B", "end") == Context(("pot", "bell", "cup"), ("X", "T", "B"))
