"""Races beside a run: of a stage on a model, without a folder; and of known effects, in other orders."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Pair, collate
from nnsight_et.core.circuit import Component
from nnsight_et.core.named_metrics import METRICS, Metric
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path, StageReads
from nnsight_et.engine.shared_runs import SharedRuns
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.measuring.race import ESTIMATED, Ask, Race, drawn_order, run_race
from nnsight_et.measuring.stage_scores import Found, effects
from nnsight_et.measuring.steps import Batch, batches
from nnsight_et.models.model import Model

ROUNDING = 1e-9


@dataclass(frozen=True)
class StageOfModel:
    """A stage: the path of which senders, on which prompts, and how much goes through the model at once.

    Rounds share runs if the model keeps any (its `runs` is not None), as `later` stages will.
    """

    model: Model
    examples: Sequence[Example]
    path: Path
    senders: Sequence[Component]
    metric: Metric
    chunks: Chunks = field(default_factory=Chunks)
    later: tuple[StageReads, ...] = ()

    @property
    def reads(self) -> StageReads:
        """What its passes read of the runs."""
        ends = frozenset(one.layer for one in self.path.receivers)
        return StageReads(self.path.at, self.path.senders, ends, max(ends, default=self.model.n_layers - 1))

    def measure(self) -> Tensor:
        """[sender, prompt]: all effects, in batches as a run without a screen makes them."""
        some = tuple(batches([self._lengths(number) for number in range(len(self.examples))], self.chunks.examples))
        return effects(self._found(some, self.senders, path_probabilities, self._pair), self.metric)

    def race(self, screen: Screen, keep: int, seed: str) -> Race:
        """The same with a screen, as a run has it; what the model still holds of an earlier race is forgotten."""
        if self.model.runs:
            self.model.runs.clear()
        order = drawn_order(len(self.examples), seed)
        drawn = {number: place for place, number in enumerate(order)}

        def ask(some: Sequence[int], prompts: Sequence[int], name: str) -> Generator[Any, None, Found]:
            yield from ()

            def pair(batch: Batch) -> Pair:
                numbers = [prompts[index] for index in batch]
                first = drawn[numbers[0]] // self.chunks.examples * self.chunks.examples
                rows = torch.tensor([drawn[number] - first for number in numbers])
                shared = SharedRuns(
                    self._pair(order[first : first + self.chunks.examples]), rows, (self.reads, *self.later)
                )
                return replace(self._pair(numbers), shared=shared)

            sizes = [self._lengths(number, drawn[number] // self.chunks.examples) for number in prompts]
            function = screened_probabilities if name in ESTIMATED else path_probabilities
            senders = [self.senders[number] for number in some]
            return self._found(tuple(batches(sizes, self.chunks.examples)), senders, function, pair)

        return _finish(ask, (len(self.senders), len(self.examples)), screen, self.metric, keep, seed)

    def _found(
        self,
        some: Sequence[Batch],
        senders: Sequence[Component],
        function: Callable[..., Found],
        pair: Callable[[Batch], Pair],
    ) -> Found:
        found = [function(self.model, pair(batch), self.path, senders, "default", self.chunks) for batch in some]
        back = torch.tensor([index for batch in some for index in batch]).argsort()
        return {key: torch.cat([one[key] for one in found], -1)[..., back] for key in found[0]}

    def _pair(self, numbers: Sequence[int]) -> Pair:
        return collate([self.examples[number] for number in numbers], metric=self.metric)

    def _lengths(self, number: int, group: int = 0) -> tuple[int, int]:
        base = self.examples[number].base
        return group * 10**6 + base.length - base.positions[self.path.at], base.length


@dataclass(frozen=True)
class KnownStage:
    """A stage whose effects on all prompts are known: what a race of it finds, and what it should have found."""

    metric: Metric
    keep: int
    effects: Tensor
    """[sender, prompt]."""
    estimates: Tensor
    """[sender, prompt]; 0 where there are none."""
    base: Tensor
    """[prompt]: in the base run, what the metric compares; for the paper's the answer's probability."""

    def race(self, screen: Screen, seed: str) -> Race:
        """In the order that `seed` says."""

        def ask(some: Sequence[int], prompts: Sequence[int], name: str) -> Generator[Any, None, Found]:
            yield from ()
            base, moved = self.base[list(prompts)], self.effects[list(some)][:, list(prompts)]
            if self.metric == "probability_ratio":
                here = {"base": base, "patched": base * (1 + moved)}
            else:
                here = {"base": base, "base_value": base, "patched_value": base + moved}
            return here | ({"estimate": self.estimates[None, :, list(prompts)]} if name in ESTIMATED else {})

        senders, prompts = self.effects.shape
        return _finish(ask, (senders, prompts), screen, self.metric, self.keep, seed)

    def outcome(self, screen: Screen, seed: str) -> dict[str, Any]:
        """Of one race: what it measured, how many heads to keep it lost, and how many intervals are wrong."""
        race, means = self.race(screen, seed), self.effects.mean(-1)
        best = (METRICS[self.metric].direction * means).argsort(stable=True)[: self.keep].tolist()
        low, high = race.bounds().unbind(-1)
        wrong = (means < low - ROUNDING) | (means > high + ROUNDING)
        lost = sorted({*best} - {*race.whole})
        return {
            "measured": race.prompts.double().mean().item() / len(race.order),
            "left": len(means) - len(race.whole),
            "lost": len(lost),
            "lost_outside_interval": int(wrong[lost].sum()),
            "wrong_intervals": int(wrong.sum()),
        }


def _finish(ask: Ask, sizes: tuple[int, int], screen: Screen, metric: Metric, keep: int, seed: str) -> Race:
    race = run_race(ask, sizes, screen=screen, metric=metric, keep=keep, seed=seed)
    while True:
        try:
            next(race)
        except StopIteration as done:
            return done.value
