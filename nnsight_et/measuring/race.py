"""A race of senders: all on a few prompts, then those that may still be among the kept ones on more, until it is clear.

Senders that look best are measured on all prompts at once; the `keep`-th best of their scores is a bar. Another sender
leaves once a bound puts its mean over all prompts above the bar. A sender that should have been kept has a mean that is
below the bar, whichever senders have set it, so that each of the `keep` leaves with a probability of at most
miss / keep, and any of them with at most `miss`, whatever the others do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log, nan

import torch
from torch import Tensor

from nnsight_et.core.finite_means import log_capital, lower_bounds
from nnsight_et.core.named_metrics import METRICS, Metric
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.measuring.context import Progress
from nnsight_et.measuring.stage_scores import Found, effects

GROWTH = 1.5  # how many times the prompts of a round those of the next are, all before them included
Ask = Callable[[Sequence[int], Sequence[int], str], Generator[Progress, None, Found]]
"""Measures senders on prompts, both by their numbers, in a step of that name."""


@dataclass
class Race:
    """Senders on the way. Smaller values are better, whatever the metric."""

    screen: Screen
    metric: Metric
    keep: int
    order: list[int]
    """The numbers of the prompts, as they are drawn."""
    prompts: Tensor
    """[sender]: on how many prompts, the first of the order, each was measured."""
    found: Found = field(default_factory=dict[str, Tensor])
    """base [example] and patched [sender, example], and another metric's values; NaN where nothing was measured."""

    @property
    def values(self) -> Tensor:
        """[sender, example]: effects in the order of drawing, the sign such that smaller is better."""
        return METRICS[self.metric].direction * effects(self.found, self.metric)[:, self.order]

    @property
    def whole(self) -> list[int]:
        """The senders that were measured on all prompts."""
        return (self.prompts == len(self.order)).nonzero()[:, 0].tolist()

    @property
    def bar(self) -> float:
        """The score, smaller being better, of the last that would be kept of those measured on all prompts."""
        return self.values[self.whole].mean(-1).sort().values[self.keep - 1].item()

    @property
    def level(self) -> float:
        """With what probability a single bound may be wrong."""
        return self.screen.miss / self.keep

    def loudest(self) -> Tensor:
        """[sender]: the largest effect, of either sign, on the first prompts."""
        return self.values[:, : self.screen.first].abs().amax(-1)

    def floor(self, sign: int = 1) -> Tensor:
        """[sender]: what no effect of the prompts after the first is below; with sign -1, of the effects reversed."""
        ends = _ends(self.metric, self.found)
        sign *= METRICS[self.metric].direction
        known = ends[0] if sign == 1 else -ends[1]
        if self.screen.tail == "any":
            return torch.full((len(self.prompts),), known).double()
        return (-self.screen.tail * self.loudest()).clamp(min=known)

    def cannot_be_kept(self, racing: Sequence[int], done: int) -> list[int]:
        """Those of the senders whose mean a bound puts above the bar, from the first `done` prompts."""
        bars = torch.full((len(racing),), self.bar).double()
        values, floor = self.values[racing, :done], self.floor()[racing]
        capital = log_capital(values, self.screen.first, len(self.order), bars, floor)
        return [one for one, won in zip(racing, capital.tolist(), strict=True) if won >= -log(self.level)]

    def bounds(self) -> Tensor:
        """[sender, 2]: low and high end of the score of those that left; NaN for those measured on all prompts.

        Each end is wrong with a probability of at most miss / keep.
        """
        ends, count = torch.full((len(self.prompts), 2), nan).double(), len(self.order)
        direction = METRICS[self.metric].direction
        for number in set(self.prompts.tolist()) - {count}:
            some = (self.prompts == number).nonzero()[:, 0]
            for sign in (1, -1):
                values, floor = sign * self.values[some, :number], self.floor(sign)[some]
                low = lower_bounds(values, self.screen.first, count, floor, self.level)
                ends[some, (1 - sign * direction) // 2] = sign * direction * low
        return ends


def run_race(
    ask: Ask, senders: int, prompts: int, *, screen: Screen, metric: Metric, keep: int, seed: str
) -> Generator[Progress, None, Race]:
    """Race so many senders on so many prompts, drawn in the order that `seed` says."""
    order = random.Random(f"{seed}/screen").sample(range(prompts), prompts)
    race = Race(screen, metric, keep, order, torch.zeros(senders, dtype=torch.long))
    done, rounds, times = min(screen.first, prompts), 1, 0
    yield from _measure(race, ask, range(senders), done, "round 1")
    best = race.values[:, :done].mean(-1).argsort(stable=True).tolist()
    strong = sorted(best[: screen.whole(keep)])
    racing = [one for one in range(senders) if one not in strong]
    while done < prompts:
        if strong:
            times += 1
            yield from _measure(race, ask, strong, prompts, f"whole {times}")
        racing = sorted(set(racing) - set(race.cannot_be_kept(racing, done)))
        strong = [one for one in racing if race.values[one, :done].mean() <= race.bar]
        racing = [one for one in racing if one not in strong]
        if not strong and not racing:
            break
        if not strong:
            done, rounds = min(prompts, ceil(GROWTH * done)), rounds + 1
            yield from _measure(race, ask, racing, done, f"round {rounds}")
    return race


def _measure(race: Race, ask: Ask, senders: Sequence[int], until: int, name: str) -> Generator[Progress, None, None]:
    """Measure senders that have all seen as many prompts on the next ones, up to `until` of the order."""
    some = race.order[int(race.prompts[list(senders)].max()) : until]
    new = yield from ask(senders, some, name)
    for key, values in new.items():
        shape = (*([len(race.prompts)] if values.ndim == 2 else []), len(race.order))
        whole = race.found.setdefault(key, values.new_full(shape, nan))
        if values.ndim == 2:
            whole[torch.tensor(senders)[:, None], torch.tensor(some)] = values
        else:
            whole[some] = values
    race.prompts[list(senders)] = until


def _ends(metric: Metric, found: Found) -> tuple[float, float]:
    """The smallest and the largest effect that any prompt can have by the metric itself."""
    if metric == "probability_ratio":
        return -1.0, (1 / found["base"].double() - 1).max().item()
    if metric == "probability_difference":
        base = found["base_value"].double()
        return -1 - base.max().item(), 1 - base.min().item()
    return (0.0 if metric == "kl" else -inf), inf
