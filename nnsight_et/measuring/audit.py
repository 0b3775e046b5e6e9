"""Numbers of a summary once more, from its scores, in plain Python and by no formula of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from torch import Tensor

NEAR = 1e-9  # thresholds and ties are not decided by rounding
LOST = -0.999  # of a ratio: what single precision leaves of its logarithm is not enough to compare
Scores = Mapping[str, Tensor]


def gap(found: Any, expected: float) -> float:
    """Relative to the larger of 1 and the expected value; 0 where neither exists."""
    if expected == inf:
        return 0.0 if found == "infinite" else inf
    if expected != expected:
        return 0.0 if found != found else inf
    return abs(found - expected) / max(1.0, abs(expected)) if found == found and found != "infinite" else inf


def right_answers(scores: Scores, prefix: str = "") -> list[list[int]]:
    """Per example the tokens that are right."""
    answers = scores[f"{prefix}answer"].tolist()
    more = scores[f"{prefix}also_right"].tolist() if f"{prefix}also_right" in scores else [[]] * len(answers)
    return [[answer, *others] for answer, others in zip(answers, more, strict=True)]


def share(predicted: Tensor, answers: list[list[int]]) -> float:
    """The share of predicted tokens [example] that are among the right ones."""
    right = [one in others for one, others in zip(predicted.tolist(), answers, strict=True)]
    return sum(right) / len(right)
