"""A stage of path patching as tensors over all heads, or MLPs, and as lines of a summary: scores, intervals, tests."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor

from nnsight_et.circuit import Mlp, Part
from nnsight_et.jobs.tolerance import ROUNDING
from nnsight_et.manifest import Stage
from nnsight_et.metrics import patching_ratio, patching_score
from nnsight_et.models.named import Shape
from nnsight_et.statistics import (
    LEVEL,
    benjamini_hochberg,
    bootstrap_interval,
    flips_for,
    holm,
    log_ratios,
    rank_stability,
    sign_flip_p_values,
)

TEST = {"statistic": "mean log(p_patched / p_base)", "alternative": "below 0", "null": "sign flips", "level": LEVEL}
"""What a stage's p-values are of; docs/statistics.md says more."""
OF_A_HEAD = ("score", "low", "high", "median", "largest", "log_ratio", "p", "p_holm", "p_bh", "selection_frequency")


def stage_scores(
    probabilities: dict[str, Tensor], senders: Sequence[Part], shape: Shape, keep: int, seed: int
) -> dict[str, Tensor]:
    """A stage's tensors by name, [layer, head, ...]; heads that cannot reach the end of the path score exactly 0.

    Of MLPs they are [layer, 1, ...].
    Of the ratio: score, its bootstrap interval low and high, median, largest, and per_example [layer, head, example].
    Of the log ratio: log_ratio, its mean; p, p_holm, p_bh over the senders, NaN for heads that were not run. How firm
    the `keep` best are: selection_frequency, and for all of them stability [], a mean Jaccard index. base [example],
    the answer's probability in the base run; reach, which heads were run.
    """
    base, patched = probabilities["base"].double(), probabilities["patched"].double()
    ratio, logs = patching_ratio(patched, base), log_ratios(probabilities["patched"], probabilities["base"])
    p_values = sign_flip_p_values(logs, seed)
    stability, frequency = rank_stability(ratio, keep, seed)
    of_senders = _scored(probabilities, seed) | {
        "median": ratio.median(-1).values,
        "largest": ratio.max(-1).values,
        "log_ratio": logs.mean(-1),
        "selection_frequency": frequency,
        "per_example": ratio.to(probabilities["patched"].dtype),
    }
    tests = {"p": p_values, "p_holm": holm(p_values), "p_bh": benjamini_hochberg(p_values)}
    found = {name: _over_all(values, senders, shape, 0) for name, values in of_senders.items()}
    found |= {name: _over_all(values, senders, shape, nan) for name, values in tests.items()}
    reach = _over_all(torch.ones(len(senders), dtype=torch.bool), senders, shape, 0)
    return found | {"base": probabilities["base"], "reach": reach, "stability": torch.tensor(stability).double()}


def held_out_scores(
    probabilities: dict[str, Tensor], kept: Sequence[Part], shape: Shape, seed: int
) -> dict[str, Tensor]:
    """held_out_score, held_out_low and held_out_high [layer, head] of the kept heads; NaN for all others."""
    found = _scored(probabilities, seed)
    return {f"held_out_{name}": _over_all(values, kept, shape, nan) for name, values in found.items()}


def described(
    stage: Stage,
    receivers: Sequence[Part],
    kept: Sequence[Part],
    found: dict[str, Tensor],
) -> dict[str, Any]:
    """A stage's part of the summary: its kept heads' or MLPs' numbers, and which of all are beyond chance.

    An MLP stands where a head would, by its own name: {"head": "L9MLP"}.
    """
    names = [*OF_A_HEAD, *(name for name in found if name.startswith("held_out_"))]
    heads = [
        {"head": str(head), "beyond_chance": bool(found["p_holm"][head] <= LEVEL)}
        | {name: found[name][head].item() for name in names}
        for head in kept
    ]
    return {
        "group": stage.group,
        "into": stage.into,
        "via": stage.via,
        "at": stage.at,
        "senders": stage.senders,
        "kv_heads": stage.kv_heads,
        "receivers": [str(head) for head in receivers],
        "kept": heads,
        "tested": int(found["reach"].sum()),
        "flips": flips_for(int(found["reach"].sum())),
        "beyond_chance": _at_level(found, "p_holm", kept),
        "beyond_chance_bh": _at_level(found, "p_bh", kept),
        "stability": found["stability"].item(),
        "base_probability": found["base"].double().mean().item(),
        "base_probability_1%": found["base"].double().quantile(0.01).item(),
    }


def ranking(score: Tensor, senders: Sequence[Part]) -> list[Part]:
    """The senders by score [layer, head], the most negative first; ties in row-major order."""
    return sorted(senders, key=lambda head: (score[head].item(), head))


def tied(score: Tensor, ranked: Sequence[Part], count: int, dtype: str) -> list[str]:
    """The heads after the first `count` whose score is that of the last of these to within rounding.

    Which of them is among the first is chance: another size of the batches may choose another.
    """
    if not 0 < count < len(ranked):
        return []
    last = score[ranked[count - 1]].item()
    room = ROUNDING[dtype] * max(1.0, abs(last))
    return [str(head) for head in ranked[count:] if abs(score[head].item() - last) <= room]


def _scored(probabilities: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """score, low and high [sender]."""
    base, patched = probabilities["base"].double(), probabilities["patched"].double()
    low, high = bootstrap_interval(patching_ratio(patched, base), seed)
    return {"score": patching_score(patched, base), "low": low, "high": high}


def _over_all(values: Tensor, senders: Sequence[Part], shape: Shape, other: float) -> Tensor:
    """[layer, head, ...]: values [sender, ...] where the senders are, `other` elsewhere; of MLPs one a layer."""
    width = 1 if isinstance(senders[0], Mlp) else shape.n_heads
    whole = values.new_full((shape.n_layers * width, *values.shape[1:]), other)
    whole[torch.tensor([sender.layer * width + sender.index for sender in senders])] = values
    return whole.unflatten(0, (shape.n_layers, width))


def _at_level(found: dict[str, Tensor], name: str, alike: Sequence[Part]) -> list[str]:
    """The heads, or what is `alike`, whose adjusted p-value is at most LEVEL, the most negative score first."""
    heads: list[Part] = [type(alike[0])(*place) for place in (found[name] <= LEVEL).nonzero().tolist()]
    return [str(head) for head in ranking(found["score"], heads)]
