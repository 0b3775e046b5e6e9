"""What is measured, as functions of tensors and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf, nan
from typing import NamedTuple

from torch import Tensor

from nnsight_et.circuit import Circuit, Head
from nnsight_et.errors import TaskError, accepted

Matrix = Tensor | Sequence[Sequence[float]]
TIE_DIGITS = 9
"""Accuracies are shares of a few hundred examples: what differs by less than this differs by rounding alone."""


def patching_ratio(patched: Tensor, base: Tensor) -> Tensor:
    """[sender, batch]: (p_patched - p_base) / p_base of each example, from [sender, batch] and [batch] (§4.1)."""
    return (patched - base) / base


def patching_score(patched: Tensor, base: Tensor) -> Tensor:
    """[sender]: mean over examples of (p_patched - p_base) / p_base; negative: the head mattered (§4.1).

    A mean of ratios, as in the paper, not a ratio of means.
    """
    return patching_ratio(patched, base).mean(-1)


def accuracy(predicted: Tensor, answer: Tensor) -> float:
    """The share of examples whose predicted token [batch] is the answer [batch]."""
    return (predicted == answer).double().mean().item()


def faithfulness(circuit: float, model: float) -> float:
    """F(C) / F(M): the circuit's accuracy over the whole model's (§4.2); NaN where the model never answers."""
    return circuit / model if model else float("nan")


def completeness(circuit: float, model: float) -> float:
    """|F(C \\ K) - F(M \\ K)|: how differently circuit and model do without the heads of K; 0 is best (App. C)."""
    return abs(circuit - model)


def greedy_set(accuracy: Matrix, head: int, fraction: float) -> tuple[int, ...]:
    """K of the group's head number `head`: the heads that make up for it most, the first one most (App. B).

    accuracy [head, head]: F(C \\ {v, w}), on the diagonal F(C \\ {w}). The others are ranked by how much is lost when
    v goes as well, F(C \\ {w}) - F(C \\ {v, w}); K is the first ceil(fraction * group size) of those that lose at all.
    """
    loss, others, most = _ranked(accuracy, head, fraction)
    return tuple(w for w in others[:most] if loss[w] > 0)


def greedy_ties(accuracy: Matrix, head: int, fraction: float) -> tuple[int, ...]:
    """The heads that are not in greedy_set, but make up for `head` just as much as the last one that is."""
    loss, others, most = _ranked(accuracy, head, fraction)
    return tuple(w for w in others[most:] if most and loss[w] == loss[others[most - 1]] > 0)


def _ranked(accuracy: Matrix, head: int, fraction: float) -> tuple[list[float], list[int], int]:
    """By head what is lost when `head` goes as well, the others by that, and how many of them K has at most."""
    loss = [round(float(accuracy[w][w]) - float(accuracy[head][w]), TIE_DIGITS) for w in range(len(accuracy))]
    others = [w for w in sorted(range(len(accuracy)), key=lambda w: -loss[w]) if w != head]
    return loss, others, ceil(round(fraction * len(accuracy), TIE_DIGITS))


def contribution(before: float, after: float) -> float:
    """before / after - 1: what a head adds to F(C \\ (K + v)) = `after` when it is put back (§4.2).

    Infinite where all of the accuracy is the head's; NaN where there is none with it or without it.
    """
    if after == 0:
        return inf if before > 0 else nan
    return round(before / after - 1, TIE_DIGITS)


def is_kept(before: float, after: float, threshold: float) -> bool:
    """Whether minimality keeps a head: it contributes `threshold` or more; never where there is no accuracy at all."""
    return contribution(before, after) >= threshold


class Overlap(NamedTuple):
    """How many heads two circuits' groups of one name have, and how many they share (Tables A6, A10)."""

    group: str
    first: int
    second: int
    shared: int

    @property
    def precision(self) -> float:
        """The share of the first circuit's heads that the second has; NaN if the first has none."""
        return self.shared / self.first if self.first else nan

    @property
    def recall(self) -> float:
        """The share of the second circuit's heads that the first has; NaN if the second has none."""
        return self.shared / self.second if self.second else nan


def circuit_overlap(first: Circuit, second: Circuit) -> tuple[Overlap, ...]:
    """The overlap of each group that either circuit has, then of all (head, group) pairs together as `total`."""
    mine, other = ({group.name: group for group in circuit.groups} for circuit in (first, second))
    overlaps = []
    for name in dict.fromkeys((*mine, *other)):
        places = {groups[name].at for groups in (mine, other) if name in groups}
        if len(places) > 1:
            raise TaskError(f"group {name} is at {' and at '.join(sorted(places))}; accepted: one position in both")
        heads, others = (set(groups[name].heads) if name in groups else set() for groups in (mine, other))
        overlaps.append(Overlap(name, len(heads), len(others), len(heads & others)))
    shared = sum(overlap.shared for overlap in overlaps)
    return (*overlaps, Overlap("total", first.size, second.size, shared))


class Impact(NamedTuple):
    """A head's largest |patching score|, and which of two circuits it is in (Figures A5, A7)."""

    head: Head
    score: float
    in_pretrained: bool
    in_finetuned: bool


def causal_impact(pretrained: Circuit, finetuned: Circuit, scores: Mapping[str, Matrix]) -> tuple[Impact, ...]:
    """The heads of either circuit by |score|, largest first; a head of several groups counts with its largest.

    scores: group -> the fine-tuned model's patching scores [layer, head]. Ties are in the order of a forward pass.
    """
    largest: dict[Head, float] = {}
    members = []
    for circuit in (pretrained, finetuned):
        members.append({head for group in circuit.groups for head in group.heads})
        for group in circuit.groups:
            if group.name not in scores:
                raise TaskError(f"no scores of group {group.name!r}; {accepted(group.name, scores)}")
            for head in group.heads:
                score = abs(float(scores[group.name][head.layer][head.index]))
                largest[head] = max(score, largest.get(head, 0.0))
    ordered = sorted(largest, key=lambda head: (-largest[head], head))
    return tuple(Impact(head, largest[head], head in members[0], head in members[1]) for head in ordered)
