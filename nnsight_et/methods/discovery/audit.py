"""What must hold of results of discovery: the search made once more from what was measured; and planted circuits."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.circuit import Head, Mlp
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Discovery
from nnsight_et.measuring.audit import Finding, differences, finding
from nnsight_et.measuring.evidence import Evidence, circuit_json, place
from nnsight_et.measuring.recount import holm, mean_interval, means_of_resamples, p_values
from nnsight_et.measuring.steps import suffixes
from nnsight_et.methods.discovery import spent
from nnsight_et.methods.discovery.replay import rounds_again
from nnsight_et.methods.discovery.replayed import BranchAgain, Named, Replay, cost_of, told_edges
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, same_heads

Z = 1.959964
Edges = list[tuple[Named, BranchAgain]]


def audit_output(evidence: Evidence[Discovery, DiscoverySummary]) -> Iterator[Finding]:
    """The search step by step, then every edge on held-out examples, and the graph that comes of them."""
    spec, choice = evidence.job.spec, evidence.choice
    search = Replay(evidence, list(evidence.step("logits").measurement.step.examples))
    held = [one.measurement.step.examples for one in evidence.steps("held out")]
    every = [*search.examples, *(held[-1] if held else ())]
    count = spec.examples + (spec.held_out_examples if held else 0)
    yield from evidence.selected(every, "discovery", count, choice, spec.only_correct)
    yield finding("splits", len(search.examples) == spec.examples, "how many are searched on")
    yield from rounds_again(search)
    expected = yield from _graph(search)
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), search.tensors, "scores")


def _graph(search: Replay) -> Generator[Finding, None, dict[str, Any]]:
    """What the summary must say; the edges are those that held-out examples leave. Returns it when all is compared."""
    evidence, spec = search.evidence, search.spec
    edges: list[tuple[Named, BranchAgain]] = []
    for one in search.branches.values():
        for mlps in (False, True):
            names = sorted((name for name in one.candidates if name.endswith("MLP") == mlps), key=place)
            edges += [((name, one.at), one) for name in names]
    effect, sign, cost = torch.zeros(0, spec.held_out_examples), torch.zeros(0), 0
    steps = evidence.steps("held out")
    yield finding("asked", bool(steps) == bool(edges), "held out: whether anything is tested")
    if edges:
        told = [search.told(one, node[0]) for node, one in edges]
        yield from evidence.calls(steps[-1], "edge_probabilities", told_edges, told)
        found = evidence.values(steps[-1])
        cost, effect = cost_of(search, steps[-1]), search.effect(found)
        order = {name: number for number, name in enumerate(search.branches)}
        by = sorted(range(len(edges)), key=lambda i: (order[edges[i][1].name], effect[i].mean().item()))
        edges, effect, sign = [edges[i] for i in by], effect[by], search.sign(found)[by]
    p = p_values(sign) if edges else torch.zeros(0)
    adjusted = holm(p)
    numbers = zip(edges, to_list(adjusted), to_list(effect.mean(-1)), strict=True)
    beyond = [edge for edge, one, score in numbers if one <= spec.level and score < 0]
    graph = _leading(beyond, search.owner())
    search.tensors["held_out"] = effect
    expected = _nodes(search, edges, graph, effect)
    expected["edges"] = list(_edges(search, edges, graph, (effect, p, adjusted)))
    kept = {(node, one.name) for node, one in graph}
    expected["branches"] = [
        {"name": one.name, "into": one.into, "via": one.via, "at": one.at, "why": one.why, "probes": one.probes}
        | {"halves": one.halves, "cleared": one.cleared, "sampled": one.sampled}
        | {"tested": one.tested, "candidates": one.candidates}
        | {"found": [name for name in one.candidates if ((name, one.at), one.name) in kept]}
        for one in search.branches.values()
    ]
    reasons = {one.why for one in search.branches.values()}
    base = "base_value" if "base_value" in search.tensors else "base"
    return expected | {
        "ended": "budget" if "budget" in reasons else "branches" if "branches" in reasons else "nothing more",
        **_samples(search, kept),
        "stability": _stability(search),
        "cost": search.cost | {"held_out": cost, "exhaustive": _exhaustive(search)},
        "examples": len(search.examples),
        "held_out_examples": spec.held_out_examples,
        "base": search.tensors[base].double().mean().item(),
        "effect": search.least,
    }


def _leading(edges: Edges, owner: Mapping[Named, str]) -> Edges:
    """Those from which some way of edges leads to the logits."""
    ends, size = {"logits"}, 0
    while len(ends) > size:
        size = len(ends)
        ends |= {owner[node] for node, one in edges if one.into in ends}
    return [edge for edge in edges if edge[1].into in ends]


def _edges(
    search: Replay, edges: Edges, graph: Edges, numbers: tuple[Tensor, Tensor, Tensor]
) -> Iterator[dict[str, Any]]:
    effect, p, adjusted = numbers
    seed, kept = search.evidence.job.seed, {(node, one.name) for node, one in graph}
    for number, ((name, at), one) in enumerate(edges):
        table = one.tables[name.endswith("MLP")]
        searched = table.effect[table.senders.index(place(name))]
        searched = searched[~searched.isnan()]
        ends: list[float] = to_list(mean_interval(effect[number]))
        again = means_of_resamples(searched, seed) <= -search.least
        yield {"node": name, "at": at, "into": one.into, "via": one.via, "low": ends[0], "high": ends[1]} | {
            "score": effect[number].mean().item(),
            "p": p[number].item(),
            "p_holm": adjusted[number].item(),
            "search_score": searched.mean().item(),
            "frequency": again.double().mean().item(),
            "in_graph": ((name, at), one.name) in kept,
        }


def _nodes(search: Replay, edges: Edges, graph: Edges, effect: Tensor) -> dict[str, Any]:
    """Groups and nodes, the strongest edge of the graph first, and the circuit they are."""
    best = dict[Named, float]()
    kept = {(node, one.name) for node, one in graph}
    for number, (node, one) in enumerate(edges):
        if (node, one.name) in kept:
            best[node] = min(effect[number].mean().item(), best.get(node, 1e9))
    groups, nodes = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, one in search.groups.items():
        left = sorted((each for each in one.names if (each, one.at) in best), key=lambda each: best[each, one.at])
        profiles = {each: one.profiles.get(each, []) for each in one.names}
        groups.append(
            {"name": name, "at": one.at, "kind": "mlps" if one.mlps else "heads", "round": one.round, "nodes": left}
            | {"dropped": [each for each in one.names if each not in left], "profiles": profiles}
        )
        nodes += [{"node": each, "at": one.at, "group": name} for each in left]
    there = [one for one in groups if one["nodes"]]
    heads = [(one["name"], one["at"], list(map(place, one["nodes"]))) for one in there if one["kind"] == "heads"]
    mlps = [{"name": one["name"], "at": one["at"], "mlps": one["nodes"]} for one in there if one["kind"] == "mlps"]
    return {"groups": groups, "nodes": nodes, "circuit": circuit_json(heads), "mlps": mlps}


def _samples(search: Replay, kept: set[tuple[Named, str]]) -> dict[str, Any]:
    """What was searched though it was closed, and what was found there; kept: the edges of the graph."""
    found, halves = {name for _, name in kept}, [one for one in search.branches.values() if one.sampled]
    branches = [one.name in found for one in search.branches.values() if one.why == "sampled"]
    heads = [any(((name, one.at), one.name) in kept for name in one.sampled) for one in halves]
    cleared = sum(one.cleared for one in search.branches.values())
    return {"closed_sample": _sample(search.sampled_from, branches), "cleared_sample": _sample(cleared, heads)}


def _sample(closed: int, found: list[bool]) -> dict[str, Any]:
    """Wilson's interval as the roots of (x - share)^2 = z^2 x (1 - x) / n."""
    hits, count = sum(found), len(found)
    said: dict[str, Any] = {"closed": closed, "searched": count, "found": hits, "low": None, "high": None}
    if count:
        share, z = hits / count, Z * Z / count
        middle, width = (share + z / 2) / (1 + z), sqrt(z * share * (1 - share) + z * z / 4) / (1 + z)
        said |= {"low": max(0.0, middle - width), "high": min(1.0, middle + width)}
    return said


def _stability(search: Replay) -> float | None:
    """Jaccard index over all senders that were run alone, of those with an effect and resampled ones."""
    found, again = list[Tensor](), list[Tensor]()
    for one in search.branches.values():
        for table in one.tables.values():
            for effect in table.effect:
                if len(run := effect[~effect.isnan()]):
                    found.append((run.mean() <= -search.least)[None])
                    again.append(means_of_resamples(run[None], search.evidence.job.seed) <= -search.least)
    one, other = torch.cat(found)[:, None], torch.cat(again)
    if not bool((one | other).any()):
        return None
    return ((one & other).sum(0) / (one | other).sum(0).clamp(min=1)).double().mean().item()


def _exhaustive(search: Replay) -> int:
    """Tokens times layers of all senders of all branches, on the examples of the larger sample."""
    evidence, total = search.evidence, 0
    held = [one.measurement.step.examples for one in evidence.steps("held out")]
    every = max(search.examples, list(held[-1] if held else ()), key=len)
    chunks = evidence.context.chunk_sizes.of(evidence.choice, every)
    for one in search.branches.values():
        for mlps in (False, True) if search.spec.mlps else (False,):
            if senders := one.senders(search.shape, mlps):
                parts = [(Mlp if mlps else Head)(*each) for each in senders]
                step = suffixes(evidence.job, evidence.choice, "", every, [one.at], chunks.examples)
                total += spent.of_paths(step, search.shape, chunks, [(one.path(mlps), parts)])
    return total


def statements(known: Known, _: str, result: MethodResult[DiscoverySummary]) -> Iterator[Statement]:
    """The graph has every planted head at its position, and no head that was planted to be read by nothing."""
    nodes = {(Head.parse(one.node), one.at) for one in result.summary.nodes if one.node.count("H")}
    for group in known.circuit.groups:
        found = {head for head, at in nodes if at == group.at and head in group.heads}
        yield same_heads(group.name, set(group.heads), found)
    yield same_heads("distractors", set(), {head for head, _ in nodes if head in known.unread})
