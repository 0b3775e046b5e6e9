"""How far two measurements of the same thing lie apart, and how far they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.metrics import clamp_to_normal

TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
"""How far the engines may lie apart: in log probabilities, and in other numbers relative to the larger of 1 and them.

Rows of activations are held against their own size as well, which in real models is up to 100,000: see row_gap.

In half precision both are held against the reference engine in fp32, and the default one may be at most HALF times as
far from it as the reference is in half precision, or as rounding of the residual takes any run; where the fp32 model is
too large, the engines may lie EPSILONS rounding units apart.
"""
HALF, EPSILONS = 4.0, 32.0
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "float16": 0.0025, "bfloat16": 0.02}
"""How far other chunks or threads move a score, by the model's dtype; relative to the larger of 1 and the score."""
LOGARITHMIC = ("probability", "patched", "base")


def residual_rounding(epsilon: float, n_layers: int) -> float:
    """How far rounding takes a number that has passed through all layers, relative to its size.

    Each layer rounds the residual twice, after attention and after the MLP, by up to epsilon, with independent signs.
    """
    return epsilon * (2 * n_layers) ** 0.5


def difference(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Mapping[str, Any] | None = None
) -> float:
    """The largest difference of two sets of tensors of equal names; infinite if predictions or shapes do."""
    worst = 0.0
    for name in found if names is None else names:
        one, other = found[name], expected[name]
        if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
            return float("inf")
        if name == "predicted":
            worst = worst if torch.equal(one, other) else float("inf")
            continue
        if name in LOGARITHMIC:
            gap = clamp_to_normal(one).log() - clamp_to_normal(other).log()
        else:
            gap = (one.double() - other.double()) / other.double().abs().clamp(min=1)
        gap = gap[gap.isfinite()]
        worst = max(worst, gap.abs().max().item() if gap.numel() else 0.0)
    return worst


def tolerance_of(dtype: str) -> float:
    """How far numbers of this dtype may lie apart where no run in fp32 is at hand to judge by."""
    return TOLERANCE.get(dtype, EPSILONS * torch.finfo(getattr(torch, dtype)).eps)
