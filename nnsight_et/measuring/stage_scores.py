"""A stage of path patching as tensors over all heads, or MLPs: scores, intervals, tests."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from nnsight_et.core.circuit import Component, Mlp
from nnsight_et.core.metrics import patching_effect, patching_score
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.statistics import (
    benjamini_hochberg,
    effect_p_values,
    holm,
    log_ratios,
    mean_interval,
    rank_stability,
)
from nnsight_et.measuring.tolerance import ROUNDING
from nnsight_et.models.catalog import Shape

Found = dict[str, Tensor]
"""What path_probabilities finds: base [example] and patched [sender, example], and another metric's values."""


def stage_scores(
    probabilities: Found,
    senders: Sequence[Component],
    shape: Shape,
    keep: int,
    seed: int,
    metric: Metric = DEFAULT_METRIC,
) -> dict[str, Tensor]:
    """A stage's tensors by name, [layer, head, ...]; heads that cannot reach the end of the path score exactly 0.

    Of MLPs they are [layer, 1, ...].
    Of the metric's effect: score, its interval low and high, median, largest, and per_example [layer, head,
    example]. p, p_holm, p_bh over the senders, NaN for heads that were not run and where there is no test; for the
    paper's metric log_ratio, the mean they are of. How firm the `keep` best are: selection_frequency, and for all of
    them stability [], a mean Jaccard index. base [example], the answer's probability in the base run, and base_value,
    another metric's; reach, which heads were run.
    """
    of_senders, p_values, stability = sender_numbers(probabilities, keep, seed, metric)
    return over_all_heads(probabilities, of_senders, adjusted(p_values), senders, shape) | {"stability": stability}


def sender_numbers(
    probabilities: Found, keep: int, seed: int, metric: Metric
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """What is said of each sender's effect [sender, ...], p [sender], and stability []; see stage_scores."""
    effect, tested = effects(probabilities, metric), tested_values(probabilities, metric)
    p_values = torch.full((len(effect),), nan).double() if tested is None else effect_p_values(tested)
    stability, frequency = rank_stability(METRICS[metric].direction * effect, keep, seed)
    of_senders = _score_intervals(probabilities, metric) | {
        "median": effect.median(-1).values,
        "largest": effect.max(-1).values,
        "selection_frequency": frequency,
        "per_example": effect.to(probabilities["base"].dtype),
    }
    if tested is not None and metric == DEFAULT_METRIC:
        of_senders["log_ratio"] = tested.mean(-1)
    return of_senders, p_values, torch.tensor(stability).double()


def adjusted(p_values: Tensor) -> dict[str, Tensor]:
    """p, p_holm and p_bh [sender]."""
    return {"p": p_values, "p_holm": holm(p_values), "p_bh": benjamini_hochberg(p_values)}


def over_all_heads(
    probabilities: Found,
    of_senders: dict[str, Tensor],
    tests: dict[str, Tensor],
    senders: Sequence[Component],
    shape: Shape,
) -> dict[str, Tensor]:
    """The same [layer, head, ...]: 0 or NaN of heads that cannot reach; with the base's numbers, and reach."""
    found = {name: over_all(values, senders, shape, 0) for name, values in of_senders.items()}
    found |= {name: over_all(values, senders, shape, nan) for name, values in tests.items()}
    reach = over_all(torch.ones(len(senders), dtype=torch.bool), senders, shape, 0)
    found |= {name: probabilities[name] for name in ("base", "base_value") if name in probabilities}
    return found | {"reach": reach}


def effects(probabilities: Found, metric: Metric) -> Tensor:
    """[sender, example]: the metric's effect on each example, in float64."""
    return patching_effect(*_values(probabilities, metric), metric)


def held_out_scores(
    probabilities: Found, kept: Sequence[Component], shape: Shape, metric: Metric = DEFAULT_METRIC
) -> dict[str, Tensor]:
    """held_out_score, held_out_low and held_out_high [layer, head] of the kept heads; NaN for all others."""
    found = _score_intervals(probabilities, metric)
    return {f"held_out_{name}": over_all(values, kept, shape, nan) for name, values in found.items()}


def ranking(score: Tensor, senders: Sequence[Component], metric: Metric = DEFAULT_METRIC) -> list[Component]:
    """The senders by score [layer, head], that which matters most first: the most negative, for kl the largest.

    Ties in row-major order.
    """
    direction = METRICS[metric].direction
    return sorted(senders, key=lambda head: (direction * score[head].item(), head))


def tied_heads(score: Tensor, ranked: Sequence[Component], count: int, dtype: str) -> list[str]:
    """The heads after the first `count` whose score is that of the last of these to within rounding.

    Which of them is among the first is chance: another size of the batches may choose another.
    """
    if not 0 < count < len(ranked):
        return []
    last = score[ranked[count - 1]].item()
    room = ROUNDING[dtype] * max(1.0, abs(last))
    return [str(head) for head in ranked[count:] if abs(score[head].item() - last) <= room]


def _values(probabilities: Found, metric: Metric) -> tuple[Tensor, Tensor]:
    """Of the patched runs [sender, example] and the base run [example]: what the metric compares, in float64."""
    name = "" if metric == DEFAULT_METRIC else "_value"
    return probabilities[f"patched{name}"].double(), probabilities[f"base{name}"].double()


def _score_intervals(probabilities: Found, metric: Metric) -> dict[str, Tensor]:
    """score, low and high [sender]."""
    low, high = mean_interval(effects(probabilities, metric))
    return {"score": patching_score(*_values(probabilities, metric), metric), "low": low, "high": high}


def tested_values(probabilities: Found, metric: Metric) -> Tensor | None:
    """[sender, example]: whose mean is tested to be below 0.

    None: the effect is never below 0, so there is nothing to test.
    """
    if metric == DEFAULT_METRIC:
        return log_ratios(probabilities["patched"], probabilities["base"])
    return effects(probabilities, metric) if METRICS[metric].statistic else None


def over_all(values: Tensor, senders: Sequence[Component], shape: Shape, other: float) -> Tensor:
    """[layer, head, ...]: values [sender, ...] where the senders are, `other` elsewhere; of MLPs one a layer."""
    width = 1 if isinstance(senders[0], Mlp) else shape.n_heads
    whole = values.new_full((shape.n_layers * width, *values.shape[1:]), other)
    whole[torch.tensor([sender.layer * width + sender.index for sender in senders])] = values
    return whole.unflatten(0, (shape.n_layers, width))
