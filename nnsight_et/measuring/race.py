"""A race of senders: all on a few prompts, then those that may still be among the kept ones on more, until it is clear.

Of each sender it is the difference between its effect and a gradient's estimate that is bounded, where that is smaller:
the estimate's own mean over all prompts is known. Without gradients there are the effects alone.

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

from nnsight_et.core.finite_means import LEAST, log_capital, lower_bounds
from nnsight_et.core.named_metrics import METRICS, Metric
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.measuring.context import Progress
from nnsight_et.measuring.stage_scores import Found, effects

GROWTH = 1.5  # how many times the prompts of a round those of the next are, all before them included
ESTIMATED = ("round 1", "whole 1")  # the steps that see every prompt once: estimates come with them
Ask = Callable[[Sequence[int], Sequence[int], str], Generator[Progress, None, Found]]
"""Measures senders on prompts, both by their numbers, in a step of that name; where it can, with "estimate" [1, sender,
example] of all senders."""


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
    estimates: Tensor
    """[sender, example]: of the effects; 0 where there are none."""
    found: Found = field(default_factory=dict[str, Tensor])
    """base [example] and patched [sender, example], and another metric's values; NaN where nothing was measured."""
    estimated: Tensor = field(init=False)
    """[sender]: whether the estimate was closer to the effect, on all of the first prompts, than 0 is."""

    def __post_init__(self) -> None:
        self.estimated = torch.zeros(len(self.prompts), dtype=torch.bool)

    @property
    def first(self) -> int:
        """On how many prompts all senders are measured."""
        return min(self.screen.first, len(self.order))

    @property
    def values(self) -> Tensor:
        """[sender, example]: effects in the order of drawing, the sign such that smaller is better."""
        return METRICS[self.metric].direction * effects(self.found, self.metric)[:, self.order]

    @property
    def known(self) -> Tensor:
        """[sender, example]: the estimates, likewise; 0 for senders that do without."""
        signed = METRICS[self.metric].direction * self.estimates.double()[:, self.order]
        return signed * self.estimated[:, None]

    @property
    def rests(self) -> Tensor:
        """[sender, example]: the values without what is known of them."""
        return self.values - self.known

    def choose_estimates(self) -> None:
        """Use the estimates of the senders whose largest effect on the first prompts they make smaller."""
        alone = self.values[:, : self.first].abs().amax(-1)
        self.estimated[:] = True
        self.estimated = self.rests[:, : self.first].abs().amax(-1) < alone

    def means(self, done: int) -> Tensor:
        """[sender]: what the score seems to be after so many prompts."""
        return self.rests[:, :done].mean(-1) + self.known.mean(-1)

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
        """[sender]: the largest rest, of either sign, on the first prompts, larger as the estimates are on others."""
        rest, sizes = self.rests[:, : self.first].abs().amax(-1), self.estimates.double()[:, self.order].abs()
        here, anywhere = sizes[:, : self.first].amax(-1), sizes.amax(-1)
        return torch.where(here > 0, rest * anywhere / here.clamp(min=LEAST), torch.maximum(rest, anywhere))

    def floor(self, sign: int = 1) -> Tensor:
        """[sender]: what no rest of the prompts after the first is below; with sign -1, of the rests reversed."""
        ends = _ends(self.metric, self.found)
        end = ends[0] if sign * METRICS[self.metric].direction == 1 else -ends[1]
        by_metric = (end - sign * self.known).amin(-1)
        if self.screen.tail == "any":
            return by_metric
        return torch.maximum(-self.screen.tail * self.loudest(), by_metric)

    def cannot_be_kept(self, racing: Sequence[int], done: int) -> list[int]:
        """Those of the senders whose mean a bound puts above the bar, from the first `done` prompts."""
        some = list(racing)
        bars = self.bar - self.known[some].mean(-1)
        capital = log_capital(self.rests[some, :done], self.first, len(self.order), bars, self.floor()[some])
        return [one for one, won in zip(some, capital.tolist(), strict=True) if won >= -log(self.level)]

    def best(self, senders: Sequence[int], done: int, most: int) -> list[int]:
        """Of the senders that seem to be no worse than the bar after `done` prompts the best, at most so many."""
        means = self.means(done)[list(senders)].tolist()
        strong = [(mean, one) for mean, one in zip(means, senders, strict=True) if mean <= self.bar]
        return sorted(one for _, one in sorted(strong)[:most])

    def bounds(self) -> Tensor:
        """[sender, 2]: low and high end of the score of those that left; NaN for those measured on all prompts.

        Each end is wrong with a probability of at most miss / keep.
        """
        ends, count = torch.full((len(self.prompts), 2), nan).double(), len(self.order)
        direction, offset = METRICS[self.metric].direction, self.known.mean(-1)
        for number in set(self.prompts.tolist()) - {count}:
            some = (self.prompts == number).nonzero()[:, 0]
            for sign in (1, -1):
                rests, floor = sign * self.rests[some, :number], self.floor(sign)[some]
                low = lower_bounds(rests, self.first, count, floor, self.level) + sign * offset[some]
                ends[some, (1 - sign * direction) // 2] = sign * direction * low
        return ends


def drawn_order(prompts: int, seed: str) -> list[int]:
    """The numbers of so many prompts in the order in which a race draws them: the same in all stages."""
    return random.Random(f"{seed}/screen").sample(range(prompts), prompts)


def run_race(
    ask: Ask, how_many: tuple[int, int], *, screen: Screen, metric: Metric, keep: int, seed: str
) -> Generator[Progress, None, Race]:
    """Race so many senders on so many prompts, drawn in the order that `seed` says."""
    senders, prompts = how_many
    order = drawn_order(prompts, seed)
    race = Race(screen, metric, keep, order, torch.zeros(senders, dtype=torch.long), torch.zeros(how_many))
    done, rounds, times = race.first, 1, 0
    yield from _measure(race, ask, range(senders), done, "round 1")
    strong = sorted(race.means(done).argsort(stable=True).tolist()[: screen.whole(keep)])
    racing = [one for one in range(senders) if one not in strong]
    while done < prompts:
        if strong:
            times += 1
            yield from _measure(race, ask, strong, prompts, f"whole {times}")
            if times == 1:
                race.choose_estimates()
        racing = sorted(set(racing) - set(race.cannot_be_kept(racing, done)))
        strong = race.best(racing, done, keep)
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
    if (estimates := new.get("estimate")) is not None:
        race.estimates[:, some] = estimates[0].to(race.estimates)
    for key, values in new.items():
        if key == "estimate":
            continue
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
