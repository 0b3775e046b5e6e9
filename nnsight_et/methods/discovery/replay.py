"""A search of discovery made once more from what was measured, by code of its own: what the audit goes by."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import nan, sqrt
from typing import Any

import torch

from nnsight_et.core.lists import to_list
from nnsight_et.engine.paths import End
from nnsight_et.manifest import IOITask
from nnsight_et.measuring.audit import Finding
from nnsight_et.measuring.evidence import Heads, name_of, place
from nnsight_et.methods.discovery.replayed import (
    FIRST,
    BranchAgain,
    GroupAgain,
    Named,
    Race,
    Replay,
    Table,
    told_edges,
    told_probes,
)


def rounds_again(search: Replay) -> Iterator[Finding]:
    """Every round of the search; afterwards what it must have found is there."""
    search.branches["logits"] = logits = BranchAgain("logits", None, search.positions[-1], [], "logits")
    yield from _senders(search, [logits], "logits")
    sampled, rounds = False, 0
    while True:
        while new := _new(search):
            rounds += 1
            yield from _groups(search, new, rounds)
            yield from _openings(search, rounds)
        closed = sorted(name for name, one in search.branches.items() if one.why in ("nothing", "token"))
        if sampled or not closed:
            return
        search.sampled_from = len(closed)
        draw = random.Random(f"{search.evidence.job.seed}/closed branches")
        some = [search.branches[name] for name in draw.sample(closed, min(search.spec.closed_sample, len(closed)))]
        yield from _open(search, some, "sampled", "sampled")
        sampled = any(one.why == "sampled" for one in some)
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


def _open(search: Replay, some: Sequence[BranchAgain], why: str, name: str) -> Iterator[Finding]:
    """Branches that may be opened: halves of layers, then senders."""
    opened = list[BranchAgain]()
    for one in some:
        limit = _limit(search, one.name)
        if limit is None:
            one.why = why
            opened.append(one)
        elif why == "effect":
            one.why = limit
    yield from _halves(search, opened, f"layers {name}")
    yield from _senders(search, opened, f"senders {name}")


def _senders(search: Replay, some: Sequence[BranchAgain], name: str) -> Iterator[Finding]:
    """The senders of branches on the search's examples, and the branches' candidates."""
    told, asked = list[list[Any]](), list[tuple[BranchAgain, bool, Heads, Heads]]()
    for one in some:
        for mlps in (False, True) if search.spec.mlps else (False,):
            if senders := one.senders(search.shape, mlps):
                alone = senders if one.why == "logits" or mlps else one.alone
                asked.append((one, mlps, senders, alone))
                told += [search.told(one, name_of(part, mlps)) for part in alone]
    found, steps = Race(search, "edge_probabilities", told_edges, told, "search"), search.evidence.steps(name)
    families = [(len(alone), len(senders)) for _, _, senders, alone in asked]
    yield from found.run_all(steps, families) if name == "logits" else found.run(steps, families)
    if name == "logits":
        base = search.evidence.values(steps[0])
        search.tensors |= {key: base[key] for key in ("base", "base_value") if key in base}
        search.unit = base["base_value"].double().mean().item() if "base_value" in base else 1.0
    first = 0
    for one, mlps, senders, alone in asked:
        here, first = slice(first, first + len(alone)), first + len(alone)
        at = [senders.index(part) for part in alone]
        effect = torch.full((len(senders), len(search.examples)), nan, dtype=torch.float64)
        p, bh = torch.ones(2, len(senders), dtype=torch.float64)
        effect[at], p[at], bh[at] = found.effect[here], found.p[here], found.p_bh[here]
        one.tables[mlps], one.tested = Table(senders, effect, p, bh), one.tested + len(alone)
        _keep_tensors(search, one, mlps)
    for one in some:
        _candidates(search, one)


def _keep_tensors(search: Replay, one: BranchAgain, mlps: bool) -> None:
    """What must be kept of a branch's heads, or MLPs."""
    table = one.tables[mlps]
    stem, width = f"{one.name}{'.mlps' * mlps}", 1 if mlps else search.shape.n_heads
    reach = torch.ones(len(table.senders), dtype=torch.bool)
    of_all = {"score": (table.score, 0), "per_example": (table.effect, 0), "reach": (reach, 0)}
    of_all |= {"p": (table.p, nan), "p_bh": (table.p_bh, nan)}
    for key, (values, other) in of_all.items():
        whole = values.new_full((search.shape.n_layers, width, *values.shape[1:]), other)
        for number, (layer, index) in enumerate(table.senders):
            whole[layer, index] = values[number]
        search.tensors[f"{stem}.{key}"] = whole


def _candidates(search: Replay, one: BranchAgain) -> None:
    ranked = list[tuple[float, tuple[int, int], str]]()
    for mlps, table in one.tables.items():
        for part, score, p in zip(table.senders, to_list(table.score), to_list(table.p_bh), strict=True):
            if search.is_under(score) and p <= search.spec.level:
                ranked.append((score, part, name_of(part, mlps)))
    for score, _, name in sorted(ranked)[: search.spec.keep]:
        one.candidates.append(name)
        search.scores[(name, one.at), one.name] = score


def _halves(search: Replay, some: Sequence[BranchAgain], name: str) -> Iterator[Finding]:
    """Halves of the layers below branches: whose heads must have been patched one by one, and one of the others."""
    seed, members = search.evidence.job.seed, dict[str, list[Heads]]()
    for one in some:
        draw, here = random.Random(f"{seed}/layers/{one.name}"), members.setdefault(one.name, [])
        for layer in range(search.shape.n_layers):
            heads = [part for part in one.senders(search.shape, False) if part[0] == layer]
            order = list(range(len(heads)))
            draw.shuffle(order)
            middle = len(order) // 2
            here += [sorted(heads[index] for index in part) for part in (order[:middle], order[middle:]) if part]
    told = [[one.at, one.via, one.receivers, half] for one in some for half in members[one.name]]
    if not told:
        return
    (step,) = search.evidence.steps(name)
    yield from Race(search, "probe_probabilities", told_probes, told, "search").look(
        step, search.examples[:FIRST], range(len(told))
    )
    every, first = search.effect(search.evidence.values(step)), 0
    for one in some:
        halves = members[one.name]
        effect = every[first : first + len(halves)]
        first += len(halves)
        most = effect.abs().mean(-1) + 2 * effect.abs().std(-1) / sqrt(effect.shape[-1])
        opened = [number for number, value in enumerate(to_list(most)) if value >= search.least]
        cleared = [number for number in range(len(halves)) if number not in opened]
        sampled = [random.Random(f"{seed}/cleared/{one.name}").choice(cleared)] if cleared else []
        one.halves, one.cleared = len(halves), len(cleared)
        one.sampled = [name_of(part, False) for number in sampled for part in halves[number]]
        one.alone = sorted(part for number in (*opened, *sampled) for part in halves[number])
        search.tensors[f"{one.name}.halves"] = effect
        where = torch.full((search.shape.n_layers, search.shape.n_heads), nan)
        for number, half in enumerate(halves):
            for layer, index in half:
                where[layer, index] = number
        search.tensors[f"{one.name}.in_half"] = where


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
    (step,) = search.evidence.steps(f"profiles {rounds}")
    yield from Race(search, "probe_probabilities", told_probes, told, "probes").look(
        step, search.examples[:FIRST], range(len(told))
    )
    effect = search.effect(search.evidence.values(step))
    shares: list[float] = to_list((effect.mean(-1) / search.unit).clamp(-1, 1))
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
    race = Race(search, "probe_probabilities", told_probes, told, "probes")
    yield from race.run(search.evidence.steps(f"branches {rounds}"), [])
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
    some = [search.branches[name] for _, name in sorted(opened)]
    yield from _open(search, some, "effect", str(rounds))


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
