"""The search: from the logits back, branch by branch, on examples that have no say in what is concluded."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import nan, sqrt
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Component, Head
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.lists import to_list
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS
from nnsight_et.core.statistics import benjamini_hochberg, effect_p_values
from nnsight_et.engine.paths import Kind, Path
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.probes import Probe, probe_probabilities
from nnsight_et.manifest import Discovery, IOITask
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import Progress, RunContext
from nnsight_et.measuring.missing_scores import check_scored
from nnsight_et.measuring.stage_scores import Found, effects, tested_values
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, suffixes
from nnsight_et.methods.discovery import spent
from nnsight_et.methods.discovery.graph import (
    LOGITS,
    Branch,
    Edge,
    Group,
    Node,
    branches_of,
    free_name,
    grouped,
    halves,
    inputs_of,
    is_bottom,
    node_at,
)
from nnsight_et.methods.discovery.summary import OPEN, ProbeRecord, Why
from nnsight_et.methods.path_patching.experiment import patched_paths
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import Job

SPLITS = 2  # of the heads below a branch, each into two halves
PARTS, FEWEST = 4, 16  # one part of the examples, at least so many, says which variants are run on the others
MARGIN = 2.0  # standard errors
Steps = Generator[Progress, None, None]
Measured = Callable[[Sequence[int], list[Example]], tuple[Measurement, int]]
"""Some of the variants on some of the examples, and what that costs."""


@dataclass(frozen=True)
class Raced:
    """Variants on the search's examples: effects [variant, example], their means and p-values [variant].

    Those that cannot have an effect worth keeping, judged by the first examples, were not run on the others: NaN there,
    and their p-value is 1.
    """

    effect: Tensor
    p: Tensor

    @property
    def score(self) -> Tensor:
        """[variant]: the mean effects."""
        return self.effect.nanmean(-1)

    @property
    def whole(self) -> Tensor:
        """[variant]: whether it was run on all examples."""
        return ~self.effect.isnan().any(-1)


@dataclass(frozen=True)
class Tested:
    """The senders of a branch, patched one by one."""

    senders: tuple[Component, ...]
    raced: Raced
    p_bh: Tensor


@dataclass
class Searched:
    """A branch and what became of it."""

    branch: Branch
    why: Why
    probes: list[ProbeRecord] = field(default_factory=list[ProbeRecord])
    probed: Tensor | None = None
    """[probe, example]: their effects."""
    tested: dict[Kind, Tested] = field(default_factory=dict["Kind", Tested])
    candidates: list[Node] = field(default_factory=list[Node])

    @property
    def open(self) -> bool:
        """Whether its senders were patched one by one."""
        return self.why in OPEN


@dataclass
class Search:
    """One search: what was found so far. `steps` makes it; nothing else changes it."""

    context: RunContext
    job: Job[Discovery]
    examples: list[Example]
    groups: dict[str, Group] = field(default_factory=dict[str, Group])
    group_of: dict[Node, str] = field(default_factory=dict[Node, str])
    profiles: dict[Node, list[float]] = field(default_factory=dict[Node, "list[float]"])
    branches: dict[str, Searched] = field(default_factory=dict[str, Searched])
    scores: dict[Edge, float] = field(default_factory=dict[Edge, float])
    """The candidates' scores."""
    bases: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[example]: the base run's probability, and the metric's value if it is another."""
    unit: float = 1.0
    """What a share of the base is a share of."""
    cost: dict[str, int] = field(default_factory=lambda: {"search": 0, "probes": 0})
    started: float = field(default_factory=monotonic)

    @property
    def spec(self) -> Discovery:
        """What the manifest says."""
        return self.job.spec

    @property
    def shape(self) -> Shape:
        """The model's."""
        return self.context.models.shape(self.job.models[0])

    @property
    def positions(self) -> tuple[str, ...]:
        """Where nodes can be, in the order of a prompt."""
        return self.spec.places(self.job.task.all_positions)

    @property
    def threshold(self) -> float:
        """The least effect worth keeping, in the unit of scores."""
        return self.spec.effect * self.unit

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What nodes can be."""
        return ("heads", "mlps") if self.spec.mlps else ("heads",)

    @property
    def opened(self) -> int:
        """How many branches were opened, the logits' left out."""
        return sum(one.open for one in self.branches.values()) - 1

    def steps(self) -> Steps:
        """Search until nothing more is found, or no more may be searched."""
        logits = Searched(Branch(LOGITS, None, self.positions[-1]), "logits")
        self.branches[LOGITS] = logits
        yield from self._patch_senders(logits)
        rounds = 0
        while True:
            while new := self._new_nodes():
                rounds += 1
                yield from self._form_groups(new, rounds)
                for one in (yield from self._probe_branches(rounds)):
                    one.why = self._limit(one.branch) or "effect"
                    if one.open:
                        yield from self._patch_senders(one)
            if any(one.why == "sampled" for one in self.branches.values()):
                break
            for one in self._sample():
                if self._limit(one.branch) is None:
                    one.why = "sampled"
                    yield from self._patch_senders(one)
            if not self._new_nodes():
                break

    def _unordered(self, one: str, other: str) -> bool:
        return isinstance(self.job.task, IOITask) and self.job.task.is_unordered(one, other)

    def _new_nodes(self) -> list[Node]:
        """The candidates that are in no group yet, the strongest first."""
        best: dict[Node, float] = {}
        for (node, _), score in self.scores.items():
            if node not in self.group_of:
                best[node] = min(score, best.get(node, score))
        return sorted(best, key=lambda node: (best[node], node))

    def _patch_senders(self, one: Searched) -> Steps:
        """Patch all senders of a branch, one by one, and choose its candidates."""
        ranked = list[tuple[float, Node]]()
        for kind in self.kinds:
            senders = one.branch.senders(self.shape, kind)
            if not senders:
                continue
            path, name = one.branch.path(kind), f"{one.branch.name}{' MLPs' * (kind == 'mlps')}"
            measured = partial(self._edges, path, senders, name)
            raced = yield from self._race(measured, len(senders), "search", one.why != "logits")
            one.tested[kind] = tested = Tested(tuple(senders), raced, benjamini_hochberg(raced.p))
            chosen = (raced.score <= -self.threshold) & (tested.p_bh <= self.spec.level)
            indices: list[int] = to_list(torch.nonzero(chosen)[:, 0])
            for index in indices:
                ranked.append((raced.score[index].item(), node_at(senders[index], one.branch.at)))
        for score, node in sorted(ranked)[: self.spec.keep]:
            one.candidates.append(node)
            self.scores[Edge(node, one.branch)] = score

    def _race(self, measured: Measured, count: int, kind: str, racing: bool = True) -> Generator[Progress, None, Raced]:
        """Measure variants on the first examples, and on the others those that may have an effect worth keeping."""
        first = max(len(self.examples) // PARTS, FEWEST) if racing else len(self.examples)
        found = yield from self._values(measured, range(count), self.examples[:first], kind)
        if not self.bases:
            self._keep_base(found)
        effect, tested = effects(found, self.spec.metric), self._tested(found)
        rest = self.examples[first:]
        if not rest:
            return Raced(effect, effect_p_values(tested))
        error = effect.std(-1) / sqrt(first)
        alive = torch.nonzero(effect.mean(-1) - MARGIN * error <= -self.threshold)[:, 0]
        whole = effect.new_full((count, len(self.examples)), nan)
        whole[:, :first], p = effect, torch.ones(count, dtype=torch.float64)
        if len(alive):
            found = yield from self._values(measured, to_list(alive), rest, kind)
            whole[alive, first:] = effects(found, self.spec.metric)
            tested = torch.cat([tested[alive], self._tested(found)], -1)
            p[alive] = effect_p_values(tested)
        return Raced(whole, p)

    def _values(
        self, measured: Measured, variants: Sequence[int], some: list[Example], kind: str
    ) -> Generator[Progress, None, Found]:
        """What the variants find on some of the examples."""
        measurement, cost = measured(variants, some)
        yield from measure_cells(self.context, [measurement])
        found = self.context.cells.values(measurement)
        check_scored(self.context, self.job, "examples", found, some)
        self.cost[kind] += cost
        return found

    def _tested(self, found: Found) -> Tensor:
        """[variant, example]: what is tested to be below 0."""
        tested = tested_values(found, self.spec.metric)
        assert tested is not None, "metrics without a sign are refused before"
        return tested

    def _keep_base(self, found: Found) -> None:
        """Take note of the base run; ExperimentError where there is nothing to take a share of."""
        self.bases = {name: found[name] for name in ("base", "base_value") if name in found}
        if self.spec.metric != DEFAULT_METRIC:
            self.unit = found["base_value"].double().mean().item()
        if self.unit <= 0:
            text = f"mean {METRICS[self.spec.metric].effect.partition(': ')[2]} is {self.unit:.3g} in the base run"
            accept = "a task the model does, such as only_correct: true"
            raise ExperimentError(
                f"experiments.{self.job.name}: {text}, of which there is no share; accepted: {accept}"
            )

    def _form_groups(self, new: Sequence[Node], rounds: int) -> Steps:
        """Put new nodes into groups by what each loses when one of its inputs is the source's as a whole.

        Heads of layer 0, which nothing sends to, are one group at each position.
        """
        for node in filter(is_bottom, new):
            known = [group for group in self.groups.values() if group.bottom and group.at == node.at]
            fresh = Group(free_name(node.at, "heads", self.groups), node.at, "heads", (), rounds)
            group = known[0] if known else fresh
            self.groups[group.name] = replace(group, parts=(*group.parts, node.part))
            self.group_of[node] = group.name
        above = [node for node in new if not is_bottom(node)]
        if not above:
            return
        inputs = {node: inputs_of(node.kind, node.at, self.positions, self._unordered) for node in above}
        probes = [Probe(Path(at, via, (node.part,))) for node in above for via, at in inputs[node]]
        measured = partial(self._probes, probes, f"profiles {rounds}")
        first = self.examples[: max(len(self.examples) // PARTS, FEWEST)]
        found = yield from self._values(measured, range(len(probes)), first, "probes")
        shares = iter(to_list((effects(found, self.spec.metric).mean(-1) / self.unit).clamp(-1, 1)))
        profiles: dict[Node, list[float]] = {node: [next(shares) for _ in inputs[node]] for node in above}
        self.profiles |= profiles
        for group in grouped(profiles, self.spec.effect, self.spec.alike, self.groups, rounds):
            self.groups[group.name] = group
            self.group_of |= {node_at(part, group.at): group.name for part in group.parts}

    def _probe_branches(self, rounds: int) -> Generator[Progress, None, list[Searched]]:
        """Probe all branches of the round's groups; those to be opened, the strongest first."""
        probes, asked = list[Probe](), list[tuple[Searched, list[str]]]()
        for group in self.groups.values():
            if group.round == rounds and not group.bottom:
                for branch in branches_of(group, self.positions, self._unordered):
                    given = list(self._probes_of(branch))
                    asked.append((Searched(branch, "nothing"), [what for what, _ in given]))
                    probes += [probe for _, probe in given]
        if not probes:
            return []
        raced = yield from self._race(partial(self._probes, probes, f"branches {rounds}"), len(probes), "probes")
        first, strong = 0, list[tuple[float, Searched]]()
        for one, kinds in asked:
            self.branches[one.branch.name] = one
            here = range(first, first + len(kinds))
            first += len(kinds)
            one.probed = raced.effect[here.start : here.stop]
            for what, index in zip(kinds, here, strict=True):
                row: dict[str, Any] = {"what": what, "score": raced.score[index].item(), "p": raced.p[index].item()}
                one.probes.append(ProbeRecord.model_validate(row))
            if (strength := self._judge(one)) < 0:
                strong.append((strength, one))
        return [one for _, one in sorted(strong, key=lambda entry: (entry[0], entry[1].branch.name))]

    def _probes_of(self, branch: Branch) -> Iterator[tuple[str, Probe]]:
        """What is probed of a branch: the whole input, all heads below, and halves of them."""
        yield "whole", Probe(branch.path())
        heads = branch.senders(self.shape, "heads")
        if not heads:
            return
        yield "heads", Probe(branch.path(), tuple(Head(*head) for head in heads))
        for split in range(SPLITS if len(heads) > 1 else 0):
            order = list(range(len(heads)))
            random.Random(f"{self.job.seed}/halves/{branch.name}/{split}").shuffle(order)
            for half in halves(heads, order):
                yield "half", Probe(branch.path(), half)

    def _judge(self, one: Searched) -> float:
        """The strongest effect that opens a branch; 0 if none does, and then why not."""
        strong = [probe for probe in one.probes if probe.score <= -self.threshold and probe.p <= self.spec.level]
        if not any(one.branch.senders(self.shape, kind) for kind in self.kinds):
            one.why = "layer 0"
            return 0.0
        opening = [probe.score for probe in strong if self.spec.mlps or probe.what != "whole"]
        if not opening and strong:
            one.why = "token"
        return min(opening, default=0.0)

    def _probes(
        self, probes: Sequence[Probe], name: str, variants: Sequence[int], some: list[Example]
    ) -> tuple[Measurement, int]:
        """Some of the probes on some of the examples, and what that costs."""
        choice, metric = self.job.models[0], self.spec.metric
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

    def _edges(
        self, path: Path, senders: Sequence[Component], name: str, variants: Sequence[int], some: list[Example]
    ) -> tuple[Measurement, int]:
        """Some of a path's senders on some of the examples, and what that costs."""
        chosen = [senders[index] for index in variants]
        return patched_paths(self.context, self.job, path, chosen, name, some), self.cost_of(path, chosen, some)

    def _limit(self, branch: Branch) -> Why | None:
        """Why the branch may not be opened, if so."""
        if self.opened >= self.spec.branches:
            return "branches"
        budget = self.spec.budget
        if budget and budget.minutes is not None and monotonic() - self.started > 60 * budget.minutes:
            return "budget"
        if budget and budget.token_layers is not None:
            more = sum(
                self.cost_of(branch.path(kind), branch.senders(self.shape, kind), self.examples) for kind in self.kinds
            )
            if sum(self.cost.values()) + more > budget.token_layers:
                return "budget"
        return None

    def exhaustive_cost(self, held_out: Sequence[Example]) -> int:
        """What patching all senders of all branches of the same groups costs, on the examples of both samples."""
        every = [*self.examples, *held_out]
        return sum(
            self.cost_of(one.branch.path(kind), one.branch.senders(self.shape, kind), every)
            for one in self.branches.values()
            for kind in self.kinds
        )

    def cost_of(self, path: Path, senders: Sequence[Component], some: Sequence[Example]) -> int:
        """Tokens times layers of patching the senders, one by one, on some examples."""
        chunks = self.context.chunk_sizes.of(self.job.models[0], some)
        step = suffixes(self.job, self.job.models[0], "", some, [path.at], chunks.examples)
        return spent.of_paths(step, self.shape, chunks, [(path, senders)]) if senders else 0

    @property
    def closed(self) -> list[Searched]:
        """The branches that no probe opened, those that were searched all the same among them."""
        return [one for one in self.branches.values() if one.why in ("nothing", "token", "sampled")]

    def _sample(self) -> list[Searched]:
        """Some of the closed branches, at random."""
        closed = sorted(self.closed, key=lambda one: one.branch.name)
        draw = random.Random(f"{self.job.seed}/closed branches")
        return draw.sample(closed, min(self.spec.closed_sample, len(closed)))


def _plain(probe: Probe) -> list[Any]:
    donors = None if probe.donors is None else list(map(str, probe.donors))
    return [probe.path.at, probe.path.via, sorted(map(str, probe.path.receivers)), donors]
