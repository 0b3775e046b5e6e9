"""What a search measures: senders and probes, on the first of its examples, and on more where these do not decide."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import nan, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Component
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.lists import to_list
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.statistics import benjamini_hochberg, effect_p_values
from nnsight_et.engine.paths import Path
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.path_patching import by_path, edge_probabilities
from nnsight_et.interventions.probes import Probe, probe_probabilities
from nnsight_et.manifest import Discovery
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import Progress, RunContext
from nnsight_et.measuring.missing_scores import check_scored
from nnsight_et.measuring.stage_scores import Found, effects, tested_values
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, suffixes
from nnsight_et.methods.discovery import spent
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import Job

FIRST = 16  # so many examples say which variants are run on others
MARGIN = 2.0  # standard errors
Measured = Callable[[Sequence[int], list[Example]], tuple[Measurement, int]]
"""Some of the variants on some of the examples, and what that costs."""


class Family(NamedTuple):
    """Hypotheses that a correction is over: how many variants are run, one after the other, of how many in all.

    The others have no effect.
    """

    run: int
    of: int


@dataclass(frozen=True)
class Raced:
    """Variants on the search's examples: effects [variant, example], their means and p-values [variant].

    NaN where a variant was not run. p-values are 1 of those that cannot have an effect worth keeping, judged by the
    first examples. p_bh are after Benjamini and Hochberg's correction over the family, when a variant was run last.
    """

    effect: Tensor
    p: Tensor
    p_bh: Tensor

    @property
    def score(self) -> Tensor:
        """[variant]: the mean effects."""
        return self.effect.nanmean(-1)

    def split(self, counts: Sequence[int]) -> list[Raced]:
        """So many consecutive variants each."""
        ends = [*accumulate(counts, initial=0)]
        return [Raced(self.effect[a:b], self.p[a:b], self.p_bh[a:b]) for a, b in pairwise(ends)]

    def among(self, indices: Sequence[int], count: int) -> Raced:
        """The same among `count` variants, of which these are numbers `indices`; the others were not run."""
        effect = self.effect.new_full((count, self.effect.shape[-1]), nan)
        p, p_bh = torch.ones(2, count, dtype=torch.float64)
        for whole, some in ((effect, self.effect), (p, self.p), (p_bh, self.p_bh)):
            whole[list(indices)] = some
        return Raced(effect, p, p_bh)


@dataclass
class Trials:
    """The measurements of one search, and what they cost."""

    context: RunContext
    job: Job[Discovery]
    examples: list[Example]
    bases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[example]: the base run's probability, and the metric's value if it is another."""
    unit: float = 1.0
    """What a share of the base is a share of."""
    cost: dict[str, int] = field(default_factory=lambda: {"search": 0, "probes": 0})

    @property
    def shape(self) -> Shape:
        """The model's."""
        return self.context.models.shape(self.job.models[0])

    @property
    def threshold(self) -> float:
        """The least effect worth keeping, in the unit of scores."""
        return self.job.spec.effect * self.unit

    @property
    def first(self) -> list[Example]:
        """The examples on which all is run that is run at all."""
        return self.examples[:FIRST]

    def race(
        self, measured: Measured, count: int, kind: str, families: Sequence[Family] = ()
    ) -> Generator[Progress, None, Raced]:
        """Measure variants on the first examples, and those that these leave undecided on as many more, and so on.

        Decided: the mean effect is two standard errors short of one worth keeping; or as far beyond it, and beyond
        chance, after the correction over its family; without families each is its own. Each look takes twice the
        examples of the one before.
        """
        effect = torch.full((count, len(self.examples)), nan, dtype=torch.float64)
        tested, (p, p_bh) = effect.clone(), torch.ones(2, count, dtype=torch.float64)
        left, start, stop = list(range(count)), 0, len(self.first)
        while left and start < len(self.examples):
            found = yield from self.values(measured, left, self.examples[start:stop], kind)
            effect[left, start:stop], tested[left, start:stop] = effects(found, self.metric), self._tested(found)
            seen = effect[left, :stop]
            reach, mean = MARGIN * seen.std(-1) / sqrt(seen.shape[-1]), seen.mean(-1)
            ruled_out = (mean - reach > -self.threshold) & (stop < len(self.examples))
            p[left] = effect_p_values(tested[left, :stop]).masked_fill(ruled_out, 1.0)
            p_bh[left] = _corrected(p, families)[left]
            decided = ruled_out | ((mean + reach <= -self.threshold) & (p_bh[left] <= self.job.spec.level))
            left: list[int] = [index for index, done in zip(left, to_list(decided), strict=True) if not done]
            start, stop = stop, 2 * stop
        return Raced(effect, p, p_bh)

    def run_all(
        self, measured: Measured, count: int, kind: str, families: Sequence[Family]
    ) -> Generator[Progress, None, Raced]:
        """Measure all variants on all examples; they say what a share of the base is."""
        found = yield from self.values(measured, range(count), self.examples, kind)
        if not self.bases:
            self._keep_base(found)
        p = effect_p_values(self._tested(found))
        return Raced(effects(found, self.metric), p, _corrected(p, families))

    def values(
        self, measured: Measured, variants: Sequence[int], some: list[Example], kind: str
    ) -> Generator[Progress, None, Found]:
        """What the variants find on some of the examples."""
        measurement, cost = measured(variants, some)
        yield from measure_cells(self.context, [measurement])
        found = self.context.cells.values(measurement)
        check_scored(self.context, self.job, "examples", found, some)
        self.cost[kind] += cost
        return found

    @property
    def metric(self) -> Metric:
        """What scores are made of."""
        return self.job.spec.metric

    def _tested(self, found: Found) -> Tensor:
        """[variant, example]: what is tested to be below 0."""
        tested = tested_values(found, self.metric)
        assert tested is not None, "metrics without a sign are refused before"
        return tested

    def _keep_base(self, found: Found) -> None:
        """Take note of the base run; ExperimentError where there is nothing to take a share of."""
        self.bases = {name: found[name] for name in ("base", "base_value") if name in found}
        if self.metric != DEFAULT_METRIC:
            self.unit = found["base_value"].double().mean().item()
        if self.unit <= 0:
            text = f"mean {METRICS[self.metric].effect.partition(': ')[2]} is {self.unit:.3g} in the base run"
            accept = "prompts that the model answers, such as only_correct: true"
            raise ExperimentError(
                f"experiments.{self.job.name}: {text}, so effects cannot be shares of it; accepted: {accept}"
            )

    def probes(
        self, probes: Sequence[Probe], name: str, variants: Sequence[int], some: list[Example]
    ) -> tuple[Measurement, int]:
        """Some of the probes on some of the examples, and what that costs."""
        choice, metric = self.job.models[0], self.metric
        asked = [probes[index] for index in variants]
        chunks = self.context.chunk_sizes.of(choice, some)
        step = suffixes(self.job, choice, name, some, sorted({probe.path.at for probe in asked}), chunks.examples)

        def measure(batch: Batch, settings: EvalSettings) -> Call:
            pair = self.context.data.pair(choice, some, batch, metric)
            return Call(probe_probabilities, (pair, settings.select(asked), settings.engine, chunks))

        cache_key: dict[str, Any] = {"probes": [_plain(probe) for probe in asked]}
        if metric != DEFAULT_METRIC:
            cache_key["metric"] = metric
        return Measurement(step, cache_key, measure, len(asked)), spent.of_probes(step, self.shape, chunks, asked)

    def edges(
        self, edges: Sequence[tuple[Path, Component]], name: str, variants: Sequence[int], some: list[Example]
    ) -> tuple[Measurement, int]:
        """Some of the edges, of which a path's stand together, on some of the examples, and what that costs."""
        choice, metric = self.job.models[0], self.metric
        asked = [edges[index] for index in variants]
        chunks = self.context.chunk_sizes.of(choice, some)
        step = suffixes(self.job, choice, name, some, sorted({path.at for path, _ in asked}), chunks.examples)

        def measure(batch: Batch, settings: EvalSettings) -> Call:
            pair = self.context.data.pair(choice, some, batch, metric)
            return Call(edge_probabilities, (pair, settings.select(asked), settings.engine, chunks))

        named = [[path.at, path.via, sorted(map(str, path.receivers)), str(part)] for path, part in asked]
        cache_key: dict[str, Any] = {"edges": named} | ({} if metric == DEFAULT_METRIC else {"metric": metric})
        cost = spent.of_paths(step, self.shape, chunks, by_path(asked))
        return Measurement(step, cache_key, measure, len(asked)), cost

    def cost_of(self, path: Path, senders: Sequence[Component], some: Sequence[Example]) -> int:
        """Tokens times layers of patching the senders, one by one, on some examples."""
        chunks = self.context.chunk_sizes.of(self.job.models[0], some)
        step = suffixes(self.job, self.job.models[0], "", some, [path.at], chunks.examples)
        return spent.of_paths(step, self.shape, chunks, [(path, senders)]) if senders else 0


def _corrected(p: Tensor, families: Sequence[Family]) -> Tensor:
    """[variant]: p-values [variant] after the correction over each family, the rest of which have 1."""
    if not families:
        return p
    corrected, first = p.clone(), 0
    for family in families:
        here, first = slice(first, first + family.run), first + family.run
        every = torch.cat([p[here], p.new_ones(family.of - family.run)])
        corrected[here] = benjamini_hochberg(every)[: family.run]
    return corrected


def _plain(probe: Probe) -> list[Any]:
    donors = None if probe.donors is None else list(map(str, probe.donors))
    return [probe.path.at, probe.path.via, sorted(map(str, probe.path.receivers)), donors]
