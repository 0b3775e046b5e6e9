"""Inputs as users have them: none is silently wrong, none ends in a traceback, and every refusal says its reason."""

from __future__ import annotations

import pytest

from tests.real_inputs.measure import measure
from tests.real_inputs.table import CASES, DOCUMENT, chosen, document, named

QUICK = {
    "DoRA",
    "LoRA of 2023: weights in adapter_model.bin alone, few keys in its configuration",
    "a surplus bias, which the model's class has no place for",
    "an end of text behind every text (a post-processor adds </s>)",
    "halves of numbers: 17 + 52; byte-level BPE",
    "longrope: a short base prompt whose source is long",
    "into: a list of lists [[4, 0]]",
    "a JSON list of right pairs, on one line",
    "one channel of 100,000 at the first token, float32",
    "quantized: GPTQ",
    "GPT-2 as on the hub: names without transformer., and attn.bias in every layer",
    "added tokens that the prompts use, the embedding left as it was",
}
"""One or two of each area; the slow tests try them all."""


@pytest.mark.parametrize("case", [case for case in CASES if case.name in QUICK], ids=lambda case: case.name)
def test_an_input_is_right_or_refused_for_its_true_reason(case):
    row = measure(case)
    assert not row.bad, row


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in QUICK], ids=lambda case: case.name)
def test_every_other_input_is_right_or_refused_for_its_true_reason(case):
    row = measure(case)
    assert not row.bad, row


def test_the_document_has_a_row_for_each_case_and_none_that_is_wrong():
    text = DOCUMENT.read_text()
    assert len(CASES) >= 45
    assert {case.name for case in CASES} >= QUICK
    for case in chosen(()):
        assert f"\n| {named(case)} | " in text, "make real-inputs"
    for word in ("WRONG", "UNTRUE", "NOT TOLD", "TRACEBACK"):
        assert word not in text, "make real-inputs"


def test_what_is_written_by_hand_stays_when_the_tables_are_made_anew():
    text = document("# By hand\n\n<!-- tables -->\nold\n", [])
    assert text.startswith("# By hand\n\n<!-- tables -->\n")
    assert "old" not in text
