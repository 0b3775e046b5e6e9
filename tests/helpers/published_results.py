"""The published results beside the repository, and our words for theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Head

SHARED = Path(__file__).parents[3] / "shared" / "published"
GROUPS = {
    "value_fetcher": "value_fetcher",
    "pos_transmitter": "position_transmitter",
    "pos_detector": "position_detector",
    "struct_reader": "structure_reader",
}
DESIDERATA = {
    "object_value": "object",
    "box_label_value": "label",
    "positional": "position",
    "random_text_start": "text_at_start",
    "random_text_end": "text_at_end",
    "add_tokens_btw_box_and_obj": "tokens_between",
    "add_seg_start": "segment_at_start",
    "add_seg_end": "segment_at_end",
    "add_box_before_correct_segment": "boxes_before",
    "incorrect_segment": "incorrect_segment",
    "altered_box_obj_order": "altered_order",
    "altered_box_obj_association": "altered_association",
    "no_comma": "no_comma",
    "add_comma": "comma_after_object",
}
AT = ("last", "last", "query_label", "previous_query_label")


def shared(file: str) -> Any:
    """A file of the published results; skips where they are not beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no published results beside the repository")
    return json.loads((SHARED / file).read_text())


def heads(pairs: list[list[int]]) -> tuple[Head, ...]:
    """[[layer, index], ...] as heads."""
    return tuple(Head(*pair) for pair in pairs)


def value(table: str, row: str, column: str) -> published.Number:
    """One of the package's published numbers."""
    (found,) = [
        number for number in published.numbers() if (number.table, number.row, number.column) == (table, row, column)
    ]
    return found
