"""A screened stage of path patching as tensors over all heads: scores where all examples say them, else intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from nnsight_et.core.circuit import Component
from nnsight_et.measuring.race import Race
from nnsight_et.measuring.stage_scores import adjusted, effects, over_all, over_all_heads, sender_numbers
from nnsight_et.models.catalog import Shape


def screened_scores(race: Race, senders: Sequence[Component], shape: Shape, seed: int) -> dict[str, Tensor]:
    """What stage_scores says, where some heads left: these have no score, but an interval of what it can be.

    Beside it prompts [layer, head], on how many each was measured, 0 where it cannot reach. What is of all examples is
    NaN for a head that left, and so is per_example where it was not measured. In the corrections of p-values a head
    that left counts as one that chance explains.
    """
    whole, left = torch.tensor(race.whole), race.prompts < len(race.order)
    measured = {name: one[whole] if one.ndim == 2 else one for name, one in race.found.items()}
    of_whole, p_whole, stability = sender_numbers(measured, race.keep, seed, race.metric)

    def spread(values: Tensor) -> Tensor:
        every = values.new_full((len(senders), *values.shape[1:]), nan)
        every[whole] = values
        return every

    of_senders = {name: spread(values) for name, values in of_whole.items()}
    for name, end in zip(("low", "high"), race.bounds().unbind(-1), strict=True):
        of_senders[name] = torch.where(left, end, of_senders[name])
    of_senders["per_example"] = effects(race.found, race.metric).to(race.found["base"].dtype)
    p_values = spread(p_whole)
    tests = adjusted(p_values.masked_fill(left & ~p_whole.isnan().all(), 1.0))
    tests = {name: values.masked_fill(left, nan) for name, values in tests.items()}
    found = over_all_heads(race.found, of_senders, tests, senders, shape)
    return found | {"prompts": over_all(race.prompts, senders, shape, 0), "stability": stability}
