"""A race once more, from its cells alone: who was measured on what, who left, and the intervals of those."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.manifest import PathPatching, Stage
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.measuring.evidence import Evidence, Heads
from nnsight_et.measuring.recount import Array, finite_bound, most_won
from nnsight_et.methods.path_patching.summary import PathPatchingSummary

Findings = Generator[Finding, None, None]


def effect_of(found: dict[str, Tensor], metric: str) -> Tensor:
    """[sender, example], from its definition."""
    name = "" if metric == "probability_ratio" else "_value"
    base = found[f"base{name}"].double()
    change = found[f"patched{name}"].double() - base
    return change / base if metric == "probability_ratio" else change


def drawn_order(evidence: Evidence[PathPatching, PathPatchingSummary], stage: Stage) -> list[int]:
    """The numbers of the examples, as a race draws them."""
    every = evidence.job.spec.examples
    return Random(f"{evidence.job.seed}/screen").sample(range(every), every)


def examples_of(evidence: Evidence[PathPatching, PathPatchingSummary], stage: Stage) -> list[Example]:
    """All examples of a stage, in their order."""
    if stage.screen is None:
        return list(evidence.step(stage.group).measurement.step.examples)
    names = ["round 1"] + ["whole 1"] * (stage.screen.first < evidence.job.spec.examples)
    drawn = [one for name in names for one in evidence.step(f"{stage.group} {name}").measurement.step.examples]
    return [one for _, one in sorted(zip(drawn_order(evidence, stage), drawn, strict=True), key=lambda pair: pair[0])]


@dataclass
class Replay:
    """A screened stage of the evidence, its senders and examples by their numbers."""

    evidence: Evidence[PathPatching, PathPatchingSummary]
    stage: Stage
    senders: Heads
    examples: Sequence[Example]
    told: Callable[[tuple[Any, ...]], dict[str, Any]]
    """What a call says that it patches."""
    asked: dict[str, Any]
    """The same as it must be, but for the senders."""
    found: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    counts: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.order, self.counts = drawn_order(self.evidence, self.stage), [0] * len(self.senders)
        self.sign = -1 if self.evidence.job.spec.metric == "kl" else 1
        self.estimates = np.zeros((len(self.senders), len(self.order)))
        self.known = np.zeros_like(self.estimates)

    @property
    def effect(self) -> Tensor:
        """[sender, example]; NaN where nothing was measured."""
        return effect_of(self.found, self.evidence.job.spec.metric)

    @property
    def signed(self) -> Array:
        """[sender, example] in the order of drawing; smaller is better."""
        return self.sign * self.effect.numpy()[:, self.order]

    @property
    def rests(self) -> Array:
        """[sender, example]: what the estimates leave of that."""
        return self.signed - self.known

    @property
    def whole(self) -> list[int]:
        """The senders that all examples were measured of."""
        return [one for one, count in enumerate(self.counts) if count == len(self.examples)]

    @property
    def first(self) -> int:
        """On how many examples all were measured."""
        assert self.stage.screen is not None
        return min(self.stage.screen.first, len(self.examples))

    @property
    def tail(self) -> float | None:
        """What is assumed."""
        assert self.stage.screen is not None
        return None if self.stage.screen.tail == "any" else self.stage.screen.tail

    @property
    def level(self) -> float:
        """Of a single bound."""
        assert self.stage.screen is not None
        return self.stage.screen.miss / self.stage.keep

    def loudest(self) -> Array:
        """[sender]: of the first examples, and by the estimates of all."""
        sizes, here = abs(self.estimates), abs(self.rests[:, : self.first]).max(1)
        early, late = sizes[:, : self.first].max(1), sizes.max(1)
        return np.array(
            [most * (b / a) if a > 0 else max(most, b) for most, a, b in zip(here, early, late, strict=True)]
        )

    def floors(self, sign: int) -> Array:
        """[sender]: below what no rest, of that sign, is."""
        least, most = self._by_metric()
        ends = ((least if sign == 1 else -most) - sign * self.known).min(1)
        return ends if self.tail is None else np.maximum(ends, -self.tail * self.loudest())

    def _by_metric(self) -> tuple[float, float]:
        """The ends of what an effect can be, where smaller is better."""
        metric = self.evidence.job.spec.metric
        base = self.found["base" if metric == "probability_ratio" else "base_value"].double()
        if metric == "probability_ratio":
            return -1.0, float((1 - base).div(base).max())
        if metric == "probability_difference":
            return -1.0 - float(base.max()), 1.0 - float(base.min())
        return -inf, 0.0 if metric == "kl" else inf

    def run(self) -> Findings:
        """Go through the rounds as they must have been."""
        assert self.stage.screen is not None
        every, done, number, times = len(self.examples), self.first, 1, 0
        yield from self._take(list(range(len(self.senders))), done, "round 1")
        means = self.signed[:, :done].mean(1)
        best = sorted(range(len(means)), key=lambda one: (means[one], one))
        exact = self.stage.screen.exact or -(-3 * self.stage.keep // 2)
        strong, racing = sorted(best[:exact]), sorted(best[exact:])
        while done < every:
            if strong:
                times += 1
                yield from self._take(strong, every, f"whole {times}")
                early = abs(np.stack([self.signed - self.estimates, self.signed]))[..., : self.first].max(-1)
                self.known = np.where((early[0] < early[1])[:, None], self.estimates, 0.0)
            bar = sorted(self.signed[self.whole].mean(1))[self.stage.keep - 1]
            offsets = self.known.mean(1)
            rests, floors = self.rests[racing, :done], self.floors(1)[racing]
            won = most_won(rests, self.first, every, bar - offsets[racing], floors) >= 1 / self.level
            racing = [one for one, leaves in zip(racing, won, strict=True) if not leaves]
            means = {one: self.rests[one, :done].mean() + offsets[one] for one in racing}
            better = sorted((mean, one) for one, mean in means.items() if mean <= bar)
            strong = sorted(one for _, one in better[: self.stage.keep])
            racing = [one for one in racing if one not in strong]
            if not racing and not strong:
                return
            if not strong:
                done, number = min(every, -int(-1.5 * done // 1)), number + 1
                yield from self._take(racing, done, f"round {number}")

    @property
    def can_estimate(self) -> bool:
        """Whether gradients had to be asked."""
        job = self.evidence.job
        assert self.stage.screen is not None
        no_use = self.stage.senders == "mlps" or job.spec.metric == "kl" or job.engine == "reference"
        return self.stage.screen.gradient and not no_use

    def record(self) -> dict[str, Any]:
        """What the summary must say of the race."""
        assert self.stage.screen is not None
        sizes, whole = abs(self.rests[self.whole]), len(self.whole)
        louder = sizes[:, self.first :].max(1, initial=0) > (self.tail or inf) * self.loudest()[self.whole]
        return {
            "miss": self.stage.screen.miss,
            "first": self.first,
            "tail": self.tail,
            "whole": whole,
            "left": len(self.senders) - whole,
            "estimated": int(self.known.any(1).sum()),
            "measured": sum(self.counts) / len(self.senders) / len(self.examples),
            "louder": int(louder.sum()),
        }

    def _take(self, some: list[int], until: int, name: str) -> Findings:
        """Put what a step found where it belongs."""
        where = self.order[max(self.counts[one] for one in some) : until]
        step = f"{self.stage.group} {name}"
        one = self.evidence.step(step)
        expected = [self.examples[number] for number in where]
        same = list(one.measurement.step.examples) == expected
        yield finding("splits", same, f"stage {step}: its examples")
        asked, function = self.asked | {"from": [self.senders[number] for number in some]}, "path_probabilities"
        if self.can_estimate and name in ("round 1", "whole 1"):
            function = "screened_probabilities"
        yield from self.evidence.calls(one, function, self.told, asked)
        if one.measurement.variants != len(some) or not same:
            raise ValueError(f"stage {step}: other senders or examples than must have raced")
        for key, values in self.evidence.values(one).items():
            if key == "estimate":
                places = [self.order.index(number) for number in where]
                self.estimates[:, places] = self.sign * values[0].double().numpy()
                continue
            rows = [len(self.senders)] if values.ndim == 2 else []
            whole = self.found.setdefault(key, values.new_full((*rows, len(self.examples)), nan))
            for number, column in zip(where, values.unbind(-1), strict=True):
                whole[(some, number) if rows else number] = column
        for number in some:
            self.counts[number] = until

    def bounds(self) -> Tensor:
        """[sender, 2]: the intervals of those that left; NaN for all others."""
        ends, every, counts = np.full((len(self.senders), 2), np.nan), len(self.examples), np.array(self.counts)
        for count in set(self.counts) - {every}:
            some = counts == count
            rests, offsets = self.rests[some][:, :count], self.known[some].mean(1)
            pair = [
                sign * finite_bound(sign * rests, self.first, every, self.floors(sign)[some], self.level) + offsets
                for sign in (1, -1)
            ]
            ends[some] = np.sort(self.sign * np.stack(pair, 1))
        return torch.tensor(ends)
