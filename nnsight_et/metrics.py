"""What is measured, as functions of tensors and numbers."""

from __future__ import annotations

from torch import Tensor


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
