"""Rotations of queries and keys that depend on how long a prompt is: longrope, and dynamic NTK scaling.

transformers chooses their frequencies by the longest prompt of a pass, and with dynamic scaling keeps those of the
longest so far. Here every prompt has its own: those of its whole length, whatever shares its batch or came before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("longrope", "dynamic")
MARK = "_rotates_each_prompt"


def rotate_each_prompt(model: nn.Module) -> None:
    """Let the model rotate each prompt of a batch as if it ran alone: with the frequencies of its own length.

    A pass over some tokens of a prompt takes its length from the last of them.
    """
    for module in model.modules():
        if any(kinds_of(module).values()) and not hasattr(module, MARK):
            module.register_forward_hook(_rotate_alone, with_kwargs=True)
            setattr(module, MARK, True)


def unchanging_length(config: Any) -> int | None:
    """Up to how many tokens all prompts have the same frequencies, whatever ran before them; None: however many."""
    written = getattr(config, "rope_parameters", None) or {}
    limits = []
    for one in [written] if "rope_type" in written else [one for one in written.values() if isinstance(one, dict)]:
        if one.get("rope_type") == "longrope":
            limits.append(one["original_max_position_embeddings"])
        elif "dynamic" in one.get("rope_type", ""):
            limits.append(config.max_position_embeddings - 1)  # with one more those of a longer one before it stay
    return min(limits, default=None)


def kinds_of(module: nn.Module) -> dict[str | None, bool]:
    """By kind of layer, None where there is one: whether the module's frequencies depend on a prompt's length."""
    found = getattr(module, "rope_type", None)
    kinds = found if isinstance(found, dict) else {None: found}
    return {layers: isinstance(kind, str) and any(name in kind for name in KINDS) for layers, kind in kinds.items()}


def _rotate_alone(module: Any, given: tuple[Any, ...], named: dict[str, Any], together: Any) -> Any:
    """A forward hook: cosines and sines [batch, seq, d], prompts of one length at a time."""
    hidden, places, layers = _arguments(*given, **named)
    lengths = places.amax(-1)
    if not kinds_of(module).get(layers):
        return together
    more = {} if layers is None else {"layer_type": layers}
    rotations = tuple(torch.empty_like(one) for one in together)
    for length in lengths.unique():
        _begin_anew(module, layers)
        rows = lengths == length
        alone = type(module).forward(module, hidden, places[rows], **more)
        for whole, part in zip(rotations, alone, strict=True):
            whole[rows] = part
    _begin_anew(module, layers)
    return rotations


def _arguments(
    hidden: Tensor, position_ids: Tensor, layer_type: str | None = None
) -> tuple[Tensor, Tensor, str | None]:
    return hidden, position_ids, layer_type


def _begin_anew(module: Any, layers: str | None) -> None:
    """Forget longer prompts, whose frequencies dynamic scaling keeps. A copy, as transformers 5.24 writes into it."""
    prefix = "" if layers is None else f"{layers}_"
    setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").clone())
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
