"""Whether a model answers a task's prompts better than chance: who may be chosen, what chance is, what is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN, Answers, Example, answers_of, right_tokens
from nnsight_et.core.metrics import is_right
from nnsight_et.core.notices import Notice
from nnsight_et.core.statistics import wilson_interval
from nnsight_et.manifest.schema import PROBED as PROBED

ALL = "all tokens"


@dataclass(frozen=True)
class Choice:
    """Of a few examples, the tokens that each answer is chosen from, and how often a choice without thought is right.

    With foils in every example: its right tokens and its foils, one as likely as the other. Of boxes those are the
    objects named, of IOI the two names, of greater-than the numbers. Without: the different answers of all these
    examples, and the one that is right most often. Of one answer alone nothing can be chosen: then all tokens; so it is
    without foils where an answer has several.
    """

    tokens: Tensor
    """[example, n], NO_TOKEN where a row has fewer; the right ones last, so that equal logits are not right."""
    chance: float
    among: str


def choice_of(examples: Sequence[Example], vocabulary: int, named: str = "the answer and its foils") -> Choice:
    """What answers to these examples are chosen from; `named` is what answers and foils together are called."""
    right = [(one.answer, *one.also_right) for one in examples]
    several = any(one.further for one in examples)
    if all(one.foils for one in examples):
        rows = [(*one.foils, *some) for one, some in zip(examples, right, strict=True)]
        chance = fmean(len(some) / len(row) for some, row in zip(right, rows, strict=True))
        return Choice(_padded_rows(rows), chance, named)
    answers = dict.fromkeys(one.answer for one in examples)
    if len(answers) == 1 or several:
        return Choice(_padded_rows([(one.answer,) for one in examples]), 1 / vocabulary, ALL)
    rows = [(*(token for token in (*answers, *one.foils) if token not in some), *some)
            for one, some in zip(examples, right, strict=True)]  # fmt: skip
    often = Counter(token for some in right for token in set(some))
    chance = max(often[token] for token in answers) / len(examples)
    return Choice(_padded_rows(rows), chance, f"the {len(answers)} answers of these prompts")


def asked_of(examples: Sequence[Example], choice: Choice, part: slice) -> Tensor | Answers:
    """What a model is asked to choose from for some of the choice's examples: tokens, or texts of several."""
    if any(one.further for one in examples[part]):
        return answers_of(examples[part], choice.among != ALL)
    return choice.tokens[part]


def right_answers(examples: Sequence[Example], choice: Choice, predicted: Tensor, chosen: Tensor) -> dict[str, int]:
    """How many of the examples are right among the choice's tokens, and among all: from the tokens [example] given."""
    answers = right_tokens(examples)
    whole = int(is_right(predicted, answers).sum())
    among = whole if choice.among == ALL else int(is_right(chosen, answers).sum())
    return {"prompts": len(examples), "right": among, "right_of_all": whole}


def chance_notices(name: str, choice: Choice, counts: dict[str, int]) -> list[Notice]:
    """What to know first of a model that answers so: that it is not shown to be better than chance, or nothing.

    That is where the 95% interval of its accuracy has chance in it, or lies below.
    """
    right, prompts = counts["right"], counts["prompts"]
    low, high = wilson_interval(right, prompts)
    if low > choice.chance:
        return []
    how = "that cannot be told from" if right / prompts > choice.chance else "no better than"
    found = f"answers {how} chance: among {choice.among} {right} of {prompts} are right, {right / prompts:.2f}"
    found += f" [{low:.2f}, {high:.2f}], and chance is {choice.chance:.2g}; among all tokens {counts['right_of_all']}"
    tail = "Circuits, faithfulness and minimality of such answers measure guessing, not how the task is solved"
    return [Notice("chance", name, f"{found}. {tail}")]


def _padded_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*[NO_TOKEN] * (width - len(row)), *row] for row in rows])
