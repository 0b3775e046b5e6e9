"""What a search of discovery must have found, and what must have been measured for it, by code of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.engine.paths import End, Path
from nnsight_et.manifest import Discovery
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.measuring.context import Measured
from nnsight_et.measuring.evidence import Evidence, Heads, place, places
from nnsight_et.measuring.recount import benjamini_hochberg, p_values
from nnsight_et.measuring.steps import EvalSettings
from nnsight_et.methods.discovery import spent
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.models.catalog import Shape

FIRST = 16
Families = Sequence[tuple[int, int]]
"""Of consecutive variants that are corrected together how many were run, and how many hypotheses there are."""
Named = tuple[str, str]
"""A head or MLP by its name, and its position."""


@dataclass
class GroupAgain:
    """A group as it must be: its members by name, in their order, and their profiles."""

    at: str
    mlps: bool
    round: int
    names: list[str]
    profiles: dict[str, list[float]]

    @property
    def bottom(self) -> bool:
        """Whether its nodes are heads of layer 0."""
        return not self.mlps and all(place(name)[0] == 0 for name in self.names)


@dataclass
class Table:
    """The senders of a branch as they must be: effects [sender, example], p-values [sender], corrected ones too."""

    senders: Heads
    effect: Tensor
    p: Tensor
    p_bh: Tensor

    @property
    def score(self) -> Tensor:
        """[sender]"""
        return self.effect.nanmean(-1)


@dataclass
class BranchAgain:
    """A branch as it must be."""

    into: str
    via: End | None
    at: str
    receivers: list[str]
    why: str = "nothing"
    probes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tested: int = 0
    candidates: list[str] = field(default_factory=list[str])
    halves: int = 0
    cleared: int = 0
    sampled: list[str] = field(default_factory=list[str])
    alone: Heads = field(default_factory=list["tuple[int, int]"])
    """The heads that must have been patched one by one."""
    tables: dict[bool, Table] = field(default_factory=dict["bool", "Table"])
    """Of heads, and of MLPs."""

    @property
    def name(self) -> str:
        """What its tensors' names begin with."""
        return self.into if self.via is None else f"{self.into}.{self.via}.{self.at}"

    def path(self, mlps: bool = False) -> Path:
        """The path of its senders."""
        parts = tuple((Mlp if name.endswith("MLP") else Head)(*place(name)) for name in self.receivers)
        return Path(self.at, self.via, parts, senders="mlps" if mlps else "heads")

    def senders(self, shape: Shape, mlps: bool) -> Heads:
        """Everything in the layers below its last receiver; a head also in that layer, if it is an MLP after it."""
        last = max((place(name)[0] for name in self.receivers), default=shape.n_layers)
        beside = self.via == "input" and not mlps and not shape.parallel
        return [(layer, index) for layer in range(last + beside) for index in range(1 if mlps else shape.n_heads)]


@dataclass
class Replay:
    """The search once more: what it must have found so far."""

    evidence: Evidence[Discovery, DiscoverySummary]
    examples: list[Example]
    groups: dict[str, GroupAgain] = field(default_factory=dict[str, GroupAgain])
    branches: dict[str, BranchAgain] = field(default_factory=dict[str, BranchAgain])
    scores: dict[tuple[Named, str], float] = field(default_factory=dict["tuple[Named, str]", float])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    cost: dict[str, int] = field(default_factory=lambda: {"search": 0, "probes": 0})
    unit: float = 1.0
    sampled_from: int = 0
    """How many branches were closed when some were drawn."""

    @property
    def spec(self) -> Discovery:
        """What the manifest says."""
        return self.evidence.job.spec

    @property
    def shape(self) -> Shape:
        """The model's."""
        return self.evidence.context.models.shape(self.evidence.choice)

    @property
    def least(self) -> float:
        """The least effect worth keeping."""
        return self.spec.effect * self.unit

    @property
    def positions(self) -> list[str]:
        """Where nodes can be."""
        every = self.evidence.job.task.all_positions
        return [one for one in every if one in (self.spec.positions or every) or one == every[-1]]

    def owner(self) -> dict[Named, str]:
        """Node -> its group."""
        return {(name, one.at): group for group, one in self.groups.items() for name in one.names}

    def told(self, one: BranchAgain, name: str) -> list[Any]:
        """What a call must say of an edge, from the sender of that name."""
        return [one.at, one.via, one.receivers, name, "shared", self.spec.metric]

    def effect(self, found: Mapping[str, Tensor]) -> Tensor:
        """[variant, example]"""
        ratio = self.spec.metric == "probability_ratio"
        patched, base = (found[f"{name}{'' if ratio else '_value'}"].double() for name in ("patched", "base"))
        return (patched - base) / base if ratio else patched - base

    def sign(self, found: Mapping[str, Tensor]) -> Tensor:
        """[variant, example]: what is tested."""
        if self.spec.metric != "probability_ratio":
            return self.effect(found)
        least = torch.finfo(found["patched"].dtype).tiny
        return found["patched"].double().clamp(min=least).log() - found["base"].double().log()

    def is_under(self, score: float) -> bool:
        """Whether a score is worth keeping."""
        return score <= -self.least


class Race:
    """Variants on the first examples, and on as many more, and so on, those that are not decided yet."""

    def __init__(self, search: Replay, function: str, told: Any, variants: Sequence[Any], kind: str) -> None:
        self.search, self.function, self.told, self.variants, self.kind = search, function, told, variants, kind
        self.effect = torch.full((len(variants), len(search.examples)), nan, dtype=torch.float64)
        self.p, self.p_bh = torch.ones(2, len(variants), dtype=torch.float64)

    def run_all(self, steps: Sequence[Measured], families: Families) -> Iterator[Finding]:
        """Hold the one step against what must have been asked; then `effect` and `p` are there."""
        yield from self.look(steps[0], self.search.examples, range(len(self.variants)))
        found = self.search.evidence.values(steps[0])
        self.effect, self.p = self.search.effect(found), p_values(self.search.sign(found))
        self.p_bh = corrected(self.p, families)

    def run(self, steps: Sequence[Measured], families: Families) -> Iterator[Finding]:
        """The same of one step after the other."""
        search, alive = self.search, list(range(len(self.variants)))
        sign, seen, looks = self.effect.clone(), 0, 0
        while alive and seen < len(search.examples):
            start, seen = seen, min(max(2 * seen, FIRST), len(search.examples))
            if looks == len(steps):
                break
            yield from self.look(steps[looks], search.examples[start:seen], alive)
            found, looks, later = search.evidence.values(steps[looks]), looks + 1, list[int]()
            self.effect[alive, start:seen], sign[alive, start:seen] = search.effect(found), search.sign(found)
            p, short = p_values(sign[alive, :seen]), dict[int, bool]()
            for number, one in enumerate(alive):
                mean, reach = self._mean(one, seen)
                short[one] = mean - reach > -search.least and seen < len(search.examples)
                self.p[one] = 1.0 if short[one] else p[number]
            now = corrected(self.p, families)
            for one in alive:
                mean, reach = self._mean(one, seen)
                self.p_bh[one] = now[one]
                beyond = mean + reach <= -search.least and now[one].item() <= search.spec.level
                later += [] if short[one] or beyond else [one]
            alive = later
        complete = looks == len(steps) and (not alive or seen == len(search.examples))
        yield finding("asked", complete, f"{self.function}, {len(self.variants)} variants: how often they were run")

    def _mean(self, one: int, seen: int) -> tuple[float, float]:
        """A variant's mean effect so far, and two standard errors of it."""
        effect = self.effect[one, :seen]
        return effect.mean().item(), 2 * effect.std().item() / sqrt(seen)

    def look(self, one: Measured, examples: Sequence[Example], which: Sequence[int]) -> Iterator[Finding]:
        """What one step asks: some of the variants on some of the examples."""
        name = one.measurement.step.name
        yield finding("splits", list(one.measurement.step.examples) == list(examples), f"step {name}: its examples")
        wanted = [self.variants[index] for index in which]
        yield from self.search.evidence.calls(one, self.function, self.told, wanted)
        self.search.cost[self.kind] += cost_of(self.search, one)


def corrected(p: Tensor, families: Families) -> Tensor:
    """p-values after Benjamini and Hochberg's correction over each family, whose other hypotheses have 1."""
    found, first = p.clone(), 0
    for run, of in families:
        here, first = slice(first, first + run), first + run
        found[here] = benjamini_hochberg(torch.cat([p[here], torch.ones(of - run, dtype=p.dtype)]))[:run]
    return found


def told_probes(arguments: tuple[Any, ...]) -> list[list[Any]]:
    """What a call of probe_probabilities replaces."""
    return [
        [one.path.at, one.path.via, list(map(str, one.path.receivers)), one.donors and places(one.donors)]
        for one in arguments[1]
    ]


def told_edges(arguments: tuple[Any, ...]) -> list[list[Any]]:
    """What a call of edge_probabilities patches, and by which metric."""
    pair, edges = arguments[:2]
    paths = ([path.at, path.via, list(map(str, path.receivers)), str(part), path.kv_heads] for path, part in edges)
    return [[*said, pair.metric] for said in paths]


def cost_of(search: Replay, one: Measured) -> int:
    """Tokens times layers of what was asked in one step."""
    step = one.measurement.step
    call = one.measurement.measure(step.batches[0], EvalSettings(search.evidence.job.engine))
    chunks = call.arguments[-1]
    if call.function.__name__ == "probe_probabilities":
        return spent.of_probes(step, search.shape, chunks, call.arguments[1])
    paths: dict[Path, list[Any]] = {}
    for path, part in call.arguments[1]:
        paths.setdefault(path, []).append(part)
    return spent.of_paths(step, search.shape, chunks, list(paths.items()))
