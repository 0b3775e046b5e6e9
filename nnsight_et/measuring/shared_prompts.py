"""Which prompts of an experiment run together once, for all its steps that ask for some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nnsight_et.core.batch import Example
from nnsight_et.engine.paths import StageReads
from nnsight_et.engine.shared_runs import SharedRuns
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.context import RunContext
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, batches


@dataclass(frozen=True)
class SharedPrompts:
    """Those of an experiment's examples whose runs are kept: as many as the memory plan has room for.

    examples: all of them, in the order in which steps come to need them. stages: what the one that asks and those to
    come read. size: how many run together.
    """

    context: RunContext
    examples: Sequence[Example]
    stages: tuple[StageReads, ...]
    kept: int
    size: int

    def group(self, place: int) -> int:
        """In which batch the example at a place runs; -1 of those that are not kept."""
        return place // self.size if place < self.kept else -1

    def apply_to(self, measurement: Measurement, places: Sequence[int], at: str) -> Measurement:
        """The same measurement, of the examples at these places, in batches of which each takes rows of one."""
        step, sizes = measurement.step, list[tuple[int, int]]()
        for place, example in zip(places, step.examples, strict=True):
            live = example.base.length - example.base.positions[at]
            sizes.append((self.group(place) * 10**6 + live, example.base.length))

        def measure(batch: Batch, settings: EvalSettings) -> Call:
            call, groups = measurement.measure(batch, settings), {self.group(places[index]) for index in batch}
            if len(groups) > 1 or -1 in groups:
                return call
            own, *rest = call.arguments
            first = self.size * groups.pop()
            some = range(first, min(first + self.size, self.kept))
            pair = self.context.data.pair(step.choice, self.examples, some, own.metric)
            rows = torch.tensor([places[index] - first for index in batch])
            return replace(call, arguments=(replace(own, shared=SharedRuns(pair, rows, self.stages)), *rest))

        return replace(measurement, step=replace(step, batches=tuple(batches(sizes, self.size))), measure=measure)
