"""A search of discovery made once more from what was measured, by code of its own: what the audit goes by."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan, sqrt
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.core.lists import to_list
from nnsight_et.engine.paths import End, Path
from nnsight_et.manifest import Discovery, IOITask
from nnsight_et.measuring.audit import Finding, finding
from nnsight_et.measuring.context import Measured
from nnsight_et.measuring.evidence import Evidence, Heads, name_of, place, places
from nnsight_et.measuring.recount import benjamini_hochberg, p_values
from nnsight_et.measuring.steps import EvalSettings
from nnsight_et.methods.discovery import spent
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.models.catalog import Shape

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
    tables: dict[bool, tuple[Heads, Tensor]] = field(default_factory=dict[bool, tuple[Heads, Tensor]])
    """Of heads, and of MLPs: senders, and effects [sender, example]."""

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

    @property
    def first(self) -> int:
        """How many examples say what is run on the others."""
        return min(len(self.examples), max(16, len(self.examples) // 4))

    def owner(self) -> dict[Named, str]:
        """Node -> its group."""
        return {(name, one.at): group for group, one in self.groups.items() for name in one.names}

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


def rounds_again(search: Replay) -> Iterator[Finding]:
    """Every round of the search; afterwards what it must have found is there."""
    search.branches["logits"] = logits = BranchAgain("logits", None, search.positions[-1], [], "logits")
    yield from _senders(search, logits)
    sampled, rounds = False, 0
    while True:
        while new := _new(search):
            rounds += 1
            yield from _groups(search, new, rounds)
            yield from _openings(search, rounds)
        closed = sorted(name for name, one in search.branches.items() if one.why in ("nothing", "token"))
        if sampled or not closed:
            return
        draw = random.Random(f"{search.evidence.job.seed}/closed branches")
        for name in draw.sample(closed, min(search.spec.closed_sample, len(closed))):
            if _limit(search, name) is None:
                search.branches[name].why, sampled = "sampled", True
                yield from _senders(search, search.branches[name])
        if not _new(search):
            return


def _new(search: Replay) -> list[Named]:
    """Candidates in no group, the strongest first."""
    known, best = search.owner(), dict[Named, float]()
    for (node, _), score in search.scores.items():
        if node not in known:
            best[node] = min(score, best.get(node, score))
    return sorted(best, key=lambda node: (best[node], place(node[0]), node[1], node[0].endswith("MLP")))


def _limit(search: Replay, name: str) -> str | None:
    """Why a branch was not opened. What a budget allowed is taken from the result: time is not measured twice."""
    if sum(one.why in ("effect", "sampled") for one in search.branches.values()) >= search.spec.branches:
        return "branches"
    said = {one.name: one.why for one in search.evidence.summary.branches}
    kept_closed = search.spec.budget is not None and said.get(name) not in ("effect", "sampled")
    return "budget" if kept_closed else None


def _senders(search: Replay, one: BranchAgain) -> Iterator[Finding]:
    """A branch's senders on the search's examples, and its candidates."""
    ranked = list[tuple[float, tuple[int, int], str]]()
    for mlps in (False, True) if search.spec.mlps else (False,):
        senders = one.senders(search.shape, mlps)
        if not senders:
            continue
        path, name = one.path(mlps), f"{one.name}{' MLPs' * mlps}"
        said = {"at": path.at, "via": path.via, "senders": path.senders, "metric": search.spec.metric}
        said |= {"receivers": sorted(places(path.receivers)), "kv_heads": "shared"}
        steps = search.evidence.steps(name)
        found = Race(search, "path_probabilities", _told_path, [said | {"from": [part]} for part in senders], "search")
        yield from found.run(steps, racing=one.why != "logits")
        if one.why == "logits" and not mlps:
            base = search.evidence.values(steps[0])
            search.tensors |= {key: base[key] for key in ("base", "base_value") if key in base}
            search.unit = base["base_value"].double().mean().item() if "base_value" in base else 1.0
        bh, score = benjamini_hochberg(found.p), found.effect.nanmean(-1)
        one.tables[mlps], one.tested = (senders, found.effect), one.tested + len(senders)
        stem, width = f"{one.name}{'.mlps' * mlps}", 1 if mlps else search.shape.n_heads
        reach = torch.ones(len(senders), dtype=torch.bool)
        of_all = {"score": (score, 0), "per_example": (found.effect, 0), "reach": (reach, 0)}
        of_all |= {"p": (found.p, nan), "p_bh": (bh, nan)}
        for key, (values, other) in of_all.items():
            whole = values.new_full((search.shape.n_layers, width, *values.shape[1:]), other)
            for number, (layer, index) in enumerate(senders):
                whole[layer, index] = values[number]
            search.tensors[f"{stem}.{key}"] = whole
        for number, part in enumerate(senders):
            if search.is_under(score[number].item()) and bh[number].item() <= search.spec.level:
                ranked.append((score[number].item(), part, name_of(part, mlps)))
    for score, _, name in sorted(ranked)[: search.spec.keep]:
        one.candidates.append(name)
        search.scores[(name, one.at), one.name] = score


class Race:
    """Variants on the first examples, and on the others those that may have an effect."""

    def __init__(self, search: Replay, function: str, told: Any, variants: Sequence[Any], kind: str) -> None:
        self.search, self.function, self.told, self.variants, self.kind = search, function, told, variants, kind
        self.effect = self.p = torch.zeros(0)

    def run(self, steps: Sequence[Measured], racing: bool = True, part: bool = False) -> Iterator[Finding]:
        """Hold the steps against what must have been asked; then `effect` and `p` are there."""
        search, count = self.search, len(self.variants)
        first = search.first if racing or part else len(search.examples)
        yield from self._asked(steps[0], search.examples[:first], range(count))
        found = search.evidence.values(steps[0])
        effect, sign = search.effect(found), search.sign(found)
        rest = [] if part else search.examples[first:]
        if not rest:
            self.effect, self.p = effect, p_values(sign)
            return
        error = effect.std(-1) / sqrt(first)
        alive: list[int] = to_list((effect.mean(-1) - 2 * error <= -search.least).nonzero()[:, 0])
        self.effect = torch.cat([effect, effect.new_full((count, len(rest)), nan)], -1)
        self.p = torch.ones(count, dtype=torch.float64)
        yield finding("asked", len(steps) == 1 + bool(alive), f"step {steps[0].measurement.step.name}: how often")
        if alive:
            yield from self._asked(steps[1], rest, alive)
            more = search.evidence.values(steps[1])
            self.effect[alive, first:] = search.effect(more)
            self.p[alive] = p_values(torch.cat([sign[alive], search.sign(more)], -1))

    def _asked(self, one: Measured, examples: Sequence[Example], which: Sequence[int]) -> Iterator[Finding]:
        name = one.measurement.step.name
        yield finding("splits", list(one.measurement.step.examples) == list(examples), f"step {name}: its examples")
        wanted = [self.variants[index] for index in which]
        yield from self.search.evidence.calls(one, self.function, self.told, wanted)
        self.search.cost[self.kind] += cost_of(self.search, one)


def _told_path(arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What a call of path_probabilities patches, sender by sender."""
    pair, path, senders = arguments[:3]
    said = {"at": path.at, "via": path.via, "senders": path.senders, "metric": pair.metric}
    said |= {"receivers": sorted(places(path.receivers)), "kv_heads": path.kv_heads}
    return [said | {"from": [part]} for part in places(senders)]


def _told_probes(arguments: tuple[Any, ...]) -> list[list[Any]]:
    """What a call of probe_probabilities replaces."""
    return [
        [one.path.at, one.path.via, list(map(str, one.path.receivers)), one.donors and places(one.donors)]
        for one in arguments[1]
    ]


def told_edges(arguments: tuple[Any, ...]) -> list[list[Any]]:
    """What a call of edge_probabilities patches."""
    return [[path.at, path.via, list(map(str, path.receivers)), str(part)] for path, part in arguments[1]]


def cost_of(search: Replay, one: Measured) -> int:
    """Tokens times layers of what was asked in one step."""
    step = one.measurement.step
    call = one.measurement.measure(step.batches[0], EvalSettings(search.evidence.job.engine))
    chunks = call.arguments[-1]
    if call.function.__name__ == "probe_probabilities":
        return spent.of_probes(step, search.shape, chunks, call.arguments[1])
    paths = [(call.arguments[1], call.arguments[2])]
    if call.function.__name__ == "edge_probabilities":
        together: dict[Path, list[Any]] = {}
        for path, part in call.arguments[1]:
            together.setdefault(path, []).append(part)
        paths = list(together.items())
    return spent.of_paths(step, search.shape, chunks, paths)


def _inputs(search: Replay, at: str, mlps: bool) -> list[tuple[End, str]]:
    """The inputs of nodes at a position."""
    if mlps:
        return [("input", at)]
    task, before = search.evidence.job.task, search.positions[: search.positions.index(at) + 1]
    if isinstance(task, IOITask):
        before = [one for one in before if one == at or not task.is_unordered(one, at)]
    return [("query", at), *(("key", one) for one in before), *(("value", one) for one in before)]


def _groups(search: Replay, new: Sequence[Named], rounds: int) -> Iterator[Finding]:
    """New nodes by position and profile: each joins the nearest group's first node, if that is near enough."""
    above = list[Named]()
    for name, at in new:
        if name.endswith("MLP") or place(name)[0] > 0:
            above.append((name, at))
            continue
        known = [one for one in search.groups.values() if one.bottom and one.at == at]
        if known:
            known[0].names.append(name)
        else:
            search.groups[_free(search, at, False)] = GroupAgain(at, False, rounds, [name], {})
    if not above:
        return
    inputs = {(name, at): _inputs(search, at, name.endswith("MLP")) for name, at in above}
    told = [[at, via, [name], None] for name, own in above for via, at in inputs[name, own]]
    race = Race(search, "probe_probabilities", _told_probes, told, "probes")
    yield from race.run(search.evidence.steps(f"profiles {rounds}"), part=True)
    shares: list[float] = to_list((race.effect.mean(-1) / search.unit).clamp(-1, 1))
    profiles, first = dict[Named, list[float]](), 0
    for node in above:
        profiles[node] = shares[first : first + len(inputs[node])]
        first += len(inputs[node])
    kinds: dict[tuple[str, bool], list[list[Named]]] = {}
    for node in above:
        groups = kinds.setdefault((node[1], node[0].endswith("MLP")), [])
        near = [_cosine(profiles[node], profiles[group[0]], search.spec.effect) for group in groups]
        if near and max(near) >= search.spec.alike:
            groups[near.index(max(near))].append(node)
        else:
            groups.append([node])
    for (at, mlps), groups in kinds.items():
        for nodes in groups:
            named = {name: profiles[name, at] for name, _ in nodes}
            search.groups[_free(search, at, mlps)] = GroupAgain(at, mlps, rounds, [name for name, _ in nodes], named)


def _free(search: Replay, at: str, mlps: bool) -> str:
    number = 1
    while (name := f"{at}{'_mlps' * mlps}_{number}") in search.groups:
        number += 1
    return name


def _cosine(one: Sequence[float], other: Sequence[float], least: float) -> float:
    sizes = sorted(sqrt(sum(x * x for x in profile)) for profile in (one, other))
    if sizes[0] < least:
        return 1.0 if sizes[1] < least else -1.0
    return sum(x * y for x, y in zip(one, other, strict=True)) / (sizes[0] * sizes[1])


def _openings(search: Replay, rounds: int) -> Iterator[Finding]:
    """The probes of the round's branches, and the branches that they open."""
    told, asked = list[list[Any]](), list[tuple[BranchAgain, list[str]]]()
    for name, group in search.groups.items():
        if group.round == rounds and not group.bottom:
            for via, at in _inputs(search, group.at, group.mlps):
                one = BranchAgain(name, via, at, group.names)
                search.branches[one.name] = one
                kinds = _probes(search, one)
                asked.append((one, [what for what, _ in kinds]))
                told += [[at, via, group.names, donors] for _, donors in kinds]
    if not told:
        return
    race = Race(search, "probe_probabilities", _told_probes, told, "probes")
    yield from race.run(search.evidence.steps(f"branches {rounds}"))
    first, opened = 0, list[tuple[float, str]]()
    for one, kinds in asked:
        effect, p = race.effect[first : first + len(kinds)], race.p[first : first + len(kinds)]
        first += len(kinds)
        search.tensors[f"{one.name}.probes"] = effect
        numbers = zip(kinds, to_list(effect.nanmean(-1)), to_list(p), strict=True)
        one.probes = [{"what": what, "score": score, "p": number} for what, score, number in numbers]
        strong = [each for each in one.probes if search.is_under(each["score"]) and each["p"] <= search.spec.level]
        opens = [each["score"] for each in strong if search.spec.mlps or each["what"] != "whole"]
        if not any(one.senders(search.shape, mlps) for mlps in ((False, True) if search.spec.mlps else (False,))):
            one.why = "layer 0"
        elif opens:
            opened.append((min(opens), one.name))
        elif strong:
            one.why = "token"
    for _, name in sorted(opened):
        search.branches[name].why = _limit(search, name) or "effect"
        if search.branches[name].why == "effect":
            yield from _senders(search, search.branches[name])


def _probes(search: Replay, one: BranchAgain) -> list[tuple[str, Heads | None]]:
    """The whole input, all heads below, and two splits of them into halves."""
    heads = one.senders(search.shape, False)
    found: list[tuple[str, Heads | None]] = [("whole", None), *([("heads", heads)] if heads else [])]
    for split in range(2 if len(heads) > 1 else 0):
        order = list(range(len(heads)))
        random.Random(f"{search.evidence.job.seed}/halves/{one.name}/{split}").shuffle(order)
        middle = len(order) // 2
        found += [("half", [heads[index] for index in sorted(some)]) for some in (order[:middle], order[middle:])]
    return found
