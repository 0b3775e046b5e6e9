"""What is measured, as functions of tensors and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf, nan
from typing import NamedTuple

import torch
from torch import Tensor

from nnsight_et.core.batch import NO_TOKEN
from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.core.errors import TaskError, accepted_names
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric

Matrix = Tensor | Sequence[Sequence[float]]
TIE_DIGITS = 9
"""Accuracies are shares of a few hundred examples: what differs by less than this differs by rounding alone."""


def patching_ratio(patched: Tensor, base: Tensor) -> Tensor:
    """[sender, batch]: (p_patched - p_base) / p_base of each example, from [sender, batch] and [batch] (§4.1)."""
    return (patched - base) / base


def clamp_to_normal(probability: Tensor) -> Tensor:
    """The same in float64; 0, and whatever else lies below the smallest normal number of its dtype, counts as that.

    Below it digits are lost, down to the last one.
    """
    return probability.clamp(min=torch.finfo(probability.dtype).tiny).double()


def patching_effect(patched: Tensor, base: Tensor, metric: Metric = DEFAULT_METRIC) -> Tensor:
    """[sender, batch]: how the metric's value of each example changes: its ratio for the paper's, else a difference.

    patched [sender, batch] and base [batch] are the probabilities of the answer, or the values of another metric.
    """
    return patching_ratio(patched, base) if metric == DEFAULT_METRIC else patched - base


def patching_score(patched: Tensor, base: Tensor, metric: Metric = DEFAULT_METRIC) -> Tensor:
    """[sender]: mean over examples of the effect; for the paper's metric of (p_patched - p_base) / p_base (§4.1).

    That is a mean of ratios, as in the paper, not a ratio of means. Negative: the head mattered; for kl: above 0.
    """
    return patching_effect(patched, base, metric).mean(-1)


def logit_difference(logits: Tensor, answer: Tensor, foils: Tensor) -> Tensor:
    """[..., batch]: the logit of answer [batch] minus the mean logit of foils [batch, n], of [..., batch, vocabulary].

    Logits are defined up to a constant, which leaves this as it is. It is not divided by anything.
    """
    right = logits.gather(-1, answer.expand(logits.shape[:-1])[..., None])[..., 0]
    return right - _sum_over(logits, foils) / (foils != NO_TOKEN).sum(-1)


def probability_difference(logits: Tensor, right: Tensor, foils: Tensor) -> Tensor:
    """[..., batch]: the probability of the tokens right [batch, n] together minus that of foils [batch, m] together."""
    probability = logits.softmax(-1)
    return _sum_over(probability, right) - _sum_over(probability, foils)


def kl_divergence(base: Tensor, logits: Tensor) -> Tensor:
    """[..., batch]: KL(base || patched) in nats over the vocabulary, from logits [batch, vocabulary] and [..., same].

    Summed as p log(p / q) - p + q, which is the same, and at least 0 token by token: where base and patched all but
    agree rounding cannot make it negative.
    """
    if logits.ndim > base.ndim:  # one variant after the other: of the whole vocabulary there is room for few
        return torch.stack([kl_divergence(base, one) for one in logits])
    log_p, log_q = base.log_softmax(-1), logits.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    ratio = torch.where(p > 0, log_p - log_q, 0.0)
    near = (ratio.abs() < 1) & (p > 0)  # where p log(p / q) and q - p cancel
    terms = torch.where(near, p * (torch.expm1(-ratio.masked_fill(~near, 0.0)) + ratio), p * ratio - p + q)
    return terms.clamp(min=0).sum(-1)


def _sum_over(values: Tensor, tokens: Tensor) -> Tensor:
    """[..., batch]: the sum of values [..., batch, vocabulary] over tokens [batch, n], those that are there."""
    index = tokens.clamp(min=0).expand(*values.shape[:-1], -1)
    return values.gather(-1, index).masked_fill(tokens == NO_TOKEN, 0.0).sum(-1)


def is_right(predicted: Tensor, right: Tensor) -> Tensor:
    """[..., batch]: whether predicted tokens [..., batch] are among the right ones [batch, n], as accuracies count."""
    assert right.ndim == 2, "right tokens are [batch, n]"
    return (predicted[..., None] == right).any(-1)


def accuracy(predicted: Tensor, right: Tensor) -> float:
    """The share of examples whose predicted token [batch] is one of those that are right [batch, n]."""
    return is_right(predicted, right).double().mean().item()


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
    loss, others, most = _rank_heads(accuracy, head, fraction)
    return tuple(w for w in others[:most] if loss[w] > 0)


def greedy_ties(accuracy: Matrix, head: int, fraction: float) -> tuple[int, ...]:
    """The heads that are not in greedy_set, but make up for `head` just as much as the last one that is."""
    loss, others, most = _rank_heads(accuracy, head, fraction)
    return tuple(w for w in others[most:] if most and loss[w] == loss[others[most - 1]] > 0)


def _rank_heads(accuracy: Matrix, head: int, fraction: float) -> tuple[list[float], list[int], int]:
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
            raise TaskError(
                f"group {name} is at {' and at '.join(sorted(places))}; accepted: the same position in both circuits"
            )
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
                raise TaskError(f"no scores of group {group.name!r}; {accepted_names(group.name, scores)}")
            for head in group.heads:
                score = abs(float(scores[group.name][head.layer][head.index]))
                if score != score:
                    found = f"{head} of {group.name} has no score because a screen dropped it"
                    raise TaskError(f"{found}; accepted: scores of stages without a screen")
                largest[head] = max(score, largest.get(head, 0.0))
    ordered = sorted(largest, key=lambda head: (-largest[head], head))
    return tuple(Impact(head, largest[head], head in members[0], head in members[1]) for head in ordered)
