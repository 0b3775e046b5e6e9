"""Why a selection is empty, of no use or decided by little: read off how its training went, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan

import torch
from torch import Tensor

from nnsight_et.core.errors import quantity
from nnsight_et.core.lists import to_list
from nnsight_et.core.statistics import is_more_often
from nnsight_et.display.table import several
from nnsight_et.manifest import DCM
from nnsight_et.results.summary import Reason

NEVER_LEFT = 0.05  # a mask that has not come down from 1 by as much has not left it
NEGLIGIBLE = 1e-5  # of a logit: gradients below it are rounding
AT_HALF = 0.05  # a mask that near to 0.5 is rounded by chance
FALLING = 0.05  # by which a mask came down in the last quarter of a training that had not settled
SHORT = 0.05  # of the validation examples: a selection that is further below its ceiling misses heads


@dataclass(frozen=True)
class Training:
    """One group's training, and who answered with the target: validation examples for floor and ceiling, test
    examples for nothing and selected, all [example].
    """

    spec: DCM
    heads: Sequence[str]
    found: Mapping[str, Tensor]
    floor: Tensor
    ceiling: Tensor
    nothing: Tensor
    selected: Tensor

    @cached_property
    def mask(self) -> list[float]:
        """The chosen mask [head]."""
        return to_list(self.found["mask"])

    @cached_property
    def empty(self) -> bool:
        """Whether no head was selected."""
        return all(self.mask)

    @cached_property
    def useless(self) -> bool:
        """Whether heads were selected that give the target no more often than nothing does."""
        return not self.empty and not is_more_often(self.selected, self.nothing)

    @cached_property
    def tried(self) -> list[tuple[list[float], float]]:
        """The validated masks and their accuracies."""
        return list(zip(to_list(self.found["masks"]), to_list(self.found["accuracies"]), strict=True))

    @cached_property
    def best(self) -> float:
        """The chosen mask's accuracy in validation; NaN where it was not validated, which the audit stops."""
        return max((accuracy for mask, accuracy in self.tried if mask == self.mask), default=nan)

    @property
    def lowest(self) -> str:
        """The mask that came down furthest, with its head."""
        course = self.found["course"]
        head = int(course.min(0).values.argmin())
        return f"{self.heads[head]}'s, {course[:, head].min().item():.2f}"


def reasons(training: Training) -> list[Reason]:
    """All there is to say of a selection; nothing where it does what it should, and clearly."""
    causes = list[Reason]()
    if training.empty or training.useless:
        causes = [_no_effect(training) or _not_possible(training) or _cause(training)]
    elif training.ceiling.double().mean().item() - training.best > SHORT:
        causes = [*_unsettled(training)]
    return [*causes, *_at_half(training), *_tied(training)]


def tied_sets(heads: Sequence[str], found: Mapping[str, Tensor]) -> list[list[str]]:
    """The other sets of as many of the group's heads that did just as well in validation, the earliest first."""
    best = to_list(found["mask"])
    tried = list(zip(to_list(found["masks"]), to_list(found["accuracies"]), strict=True))
    reached = max((share for mask, share in tried if mask == best), default=None)
    others = [mask for mask, share in tried if share == reached]
    alike = [tuple(mask) for mask in others if mask != best and sum(mask) == sum(best)]
    return [[head for head, keep in zip(heads, mask, strict=True) if keep == 0] for mask in dict.fromkeys(alike)]


def _no_effect(training: Training) -> Reason | None:
    """The target's logit does not depend on the masks."""
    largest = training.found["gradients"].abs().max().item()
    if largest >= NEGLIGIBLE:
        return None
    text = f"No head has an effect on the target's logit: the largest gradient of a mask in training was {largest:.1e}."
    what = "Do the heads write anything at this position, and do base and source differ there? Try another group."
    return Reason(kind="gradient", text=f"{text} {what}")


def _not_possible(training: Training) -> Reason | None:
    """The whole group does no better than nothing."""
    if is_more_often(training.ceiling, training.floor):
        return None
    floor, count = _share(training.floor), quantity(len(training.floor), "prompt")
    text = f"Patching {_every(training)} gives the target on {_share(training.ceiling)} of the validation prompts,"
    text = f"{text} patching none on {floor}: no difference beyond chance ({count})."
    if training.floor.double().mean() > 1 - SHORT:
        text = f"{text} There is nothing to gain: take targets that differ from the answer."
        return Reason(kind="ceiling", text=text)
    return Reason(
        kind="ceiling",
        text=f"{text} The group alone does not carry the variable. Another may, and more prompts would tell more.",
    )


def _cause(training: Training) -> Reason:
    """What kept a group that can give the target from a selection that does."""
    if training.found["course"].min().item() >= 1 - NEVER_LEFT:
        return _never_left(training)
    if any(not all(mask) for mask, _ in training.tried):
        return _outvoted(training) if training.empty else _no_better(training)
    for reason in _unsettled(training):
        return reason
    text = f"No validated mask was at 0.5 or below, where a head is selected; the lowest was {training.lowest}."
    return Reason(kind="halfway", text=f"{text} Try a smaller sparsity, or a longer training.")


def _never_left(training: Training) -> Reason:
    gains = -training.found["gradients"].double().mean(0)  # [head]: what the source's output adds, by its slope
    head, cost = int(gains.argmax()), training.spec.sparsity
    gain = gains[head].item()
    text = f"Every mask stayed at 1, where all begin; the lowest was {training.lowest}."
    if 0 < gain <= cost:
        text = f"{text} What a head adds to the target's logit, at most {gain:.2g} ({training.heads[head]}),"
        text = f"{text} is less than it costs: sparsity is {cost:g}. Try {gain / 10:.1g}."
        return Reason(kind="penalty", text=text)
    whole = f"though {_every(training)} together give it on {_share(training.ceiling)} of the validation prompts."
    if gain > cost:
        text = f"{text} What a head does to the target's logit changed its sign from batch to batch, {whole}"
        return Reason(kind="start", text=f"{text} Try larger batches, or more training pairs.")
    text = f"{text} In training each head by itself made the target less likely, {whole}"
    return Reason(kind="start", text=f"{text} Are the training pairs' targets what the source should give?")


def _outvoted(training: Training) -> Reason:
    """Masks with heads were validated, and the one without won."""
    best = max(accuracy for mask, accuracy in training.tried if not all(mask))
    whole = f"{_every(training)} reach {_share(training.ceiling)}. Try a smaller sparsity, or a longer training"
    if best == training.best:
        text = f"In validation, masks that select heads did no better than selecting none, {best:.2f};"
        text = f"{text} on a tie fewer heads are taken."
        return Reason(kind="tie", text=f"{text} But {whole}.")
    text = f"In validation, masks that select heads did worse than selecting none: {best:.2f} and {training.best:.2f},"
    return Reason(kind="worse", text=f"{text} but {whole}.")


def _no_better(training: Training) -> Reason:
    """Heads were selected, and do nothing on the test prompts."""
    found, none = _share(training.selected), _share(training.nothing)
    text = (
        f"The selected heads give the target on {found} of the test prompts, no heads on {none}: no difference beyond"
    )
    text = f"{text} chance ({quantity(len(training.nothing), 'prompt')})."
    text = f"{text} In validation they reached {training.best:.2f}, {_every(training)} {_share(training.ceiling)}."
    return Reason(kind="useless", text=f"{text} Try more validation pairs, a smaller sparsity, or a longer training.")


def _unsettled(training: Training) -> Iterator[Reason]:
    """Masks that were on their way to 0.5 when the training ended."""
    course = torch.nn.functional.pad(training.found["course"].double(), (0, 0, 1, 0), value=1)  # where all begin
    steps = min(max(2, len(course) // 4), len(course) - 1)
    before, last = course[-1 - steps], course[-1]
    falling = [i for i, fall in enumerate(to_list(before - last)) if fall >= FALLING and last[i] > 0.5]
    if falling:
        named = several([f"{training.heads[i]} {before[i].item():.2f} to {last[i].item():.2f}" for i in falling])
        text = f"The training ended before it settled: masks of heads that are not selected still fell ({named}, in the"
        text = f"{text} last {quantity(steps, 'step')} of {len(course) - 1})."
        yield Reason(kind="unsettled", text=f"{text} Try more epochs or more training pairs.")


def _at_half(training: Training) -> Iterator[Reason]:
    """Heads whose mask was rounded up or down by a hair when the chosen mask was validated."""
    number = next((i for i, one in enumerate(training.tried) if one == (training.mask, training.best)), 0)
    course = training.found["course"]
    values = to_list(course[min((number + 1) * training.spec.validate_every, len(course)) - 1])
    near = [f"{head} {value:.3f}" for head, value in zip(training.heads, values, strict=True) if _is_at_half(value)]
    if near:
        text = f"These masks were near 0.5, where a head is selected, before they were rounded: {several(near)}."
        yield Reason(kind="threshold", text=f"{text} A little more or less training may decide otherwise.")


def _is_at_half(value: float) -> bool:
    return abs(value - 0.5) <= AT_HALF


def _tied(training: Training) -> Iterator[Reason]:
    """Other sets of as many heads that the order of validation decided against."""
    others = tied_sets(training.heads, training.found)
    if others:
        named = several([" ".join(heads) for heads in others])
        text = f"Other sets of as many heads did as well in validation: {named}. The earliest was taken;"
        yield Reason(kind="tie", text=f"{text} more validation pairs can tell them apart.")


def _every(training: Training) -> str:
    return f"the group's {quantity(len(training.heads), 'head')}"


def _share(right: Tensor) -> str:
    return f"{right.double().mean().item():.2f}"
