"""What is known of a planted model beside what a method found on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan
from typing import NamedTuple

from nnsight_et.core.circuit import Circuit, Head, HeadGroup

MATTERS = -0.05
"""Patching scores at or below this count as found: planted heads score -0.1 and lower, all others 0."""
NOTHING = 1e-5
"""The largest score a distractor may have: its output is large, and rounding is all of it that arrives."""
CLOSE = 0.05
"""How far an accuracy may be from the truth."""
MOVED = 0.1
"""How far a share of a gap may be from the truth: with D silenced the recipient guesses, and a guess can tip over."""
LOST = 0.5
"""Accuracy of a model whose circuit is cut is below this; by construction it answers <unk>."""
GUESSED = 0.35
"""The accuracy below which a group's patch only guesses: one segment in seven is right."""
LOOKS = 0.8
"""The least share of its attention that a planted head gives to the token it was built to look at."""


SCREENED = ("last", "query_label")
"""Where attribution looks: the positions that stand at one place in all prompts. A label's place tells its segment, so
there the heads that count segments have effects of their own."""


class Statement(NamedTuple):
    """One statement of truth and what a method made of it."""

    what: str
    expected: str
    found: str
    right: bool
    numbers: Mapping[str, float]


def same_heads(what: str, expected: set[Head], found: set[Head]) -> Statement:
    """Whether two sets of heads are one, with precision and recall; of nothing found in nothing both are 1."""
    shared = len(expected & found)
    precision, recall = (shared / len(heads) if heads else float(not expected) for heads in (found, expected))
    if not expected:
        recall = 1.0
    numbers = {"precision": precision, "recall": recall}
    return Statement(what, _names(expected), _names(found), expected == found, numbers)


def near(what: str, expected: float, found: float | None, tolerance: float = CLOSE) -> Statement:
    """Whether a number is the expected one, give or take the tolerance; never if there is none."""
    found = nan if found is None else found
    right = abs(found - expected) <= tolerance  # never true of NaN
    return Statement(what, f"{expected:.2f}", f"{found:.2f}", right, {"value": found, "error": abs(found - expected)})


def below(what: str, limit: float, found: float) -> Statement:
    """Whether a number is below its limit."""
    return Statement(what, f"below {limit:.2f}", f"{found:.2f}", found < limit, {"value": found})


def _names(heads: Iterable[Head]) -> str:
    return " ".join(map(str, sorted(heads))) or "none"


def fewer(circuit: Circuit) -> Circuit:
    """The circuit without the last head of its first group: what completeness has to notice."""
    first, *others = circuit.groups
    return Circuit((HeadGroup(first.name, first.at, first.heads[:-1]), *others))
