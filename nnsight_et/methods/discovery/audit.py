"""What must hold of results of discovery: every decision counted once more, and models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Discovery
from nnsight_et.measuring.audit import NEAR, Scores, gap
from nnsight_et.methods.discovery.summary import BranchRecord, DiscoverySummary, EdgeRecord
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, same_heads


def audit_summary(job: Job[Discovery], scores: Scores, summary: DiscoverySummary) -> Iterator[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong decision."""
    least = summary.effect
    for branch in summary.branches:
        yield from _probe_gaps(branch, scores)
        yield from _opening(branch, job, least)
        if branch.open:
            yield from _candidates(branch, job, scores, least)
    yield from _held_out_gaps(scores, summary)
    yield from _graph(job, summary)


def _probe_gaps(branch: BranchRecord, scores: Scores) -> Iterator[float]:
    """The probes' means."""
    rows = to_list(scores[f"{branch.name}.probes"]) if branch.probes else []
    for probe, row in zip(branch.probes, rows, strict=True):
        yield gap(probe.score, _mean(row))


def _mean(row: list[float]) -> float:
    """Of the examples that it was run on."""
    run = [one for one in row if one == one]
    return sum(run) / len(run)


def _opening(branch: BranchRecord, job: Job[Discovery], least: float) -> Iterator[float]:
    """Whether the branch was opened by what its probes say."""
    strong = [one.what for one in branch.probes if one.score <= -least and one.p <= job.spec.level]
    opens = any(what != "whole" for what in strong) or (job.spec.mlps and bool(strong))
    if branch.why in ("effect", "branches", "budget"):
        yield 0.0 if opens else inf
    elif branch.why == "token":
        yield inf if opens or strong != ["whole"] else 0.0
    elif branch.why == "nothing":
        yield inf if strong else 0.0
    elif branch.why == "sampled":
        yield inf if opens else 0.0


def _candidates(branch: BranchRecord, job: Job[Discovery], scores: Scores, least: float) -> Iterator[float]:
    """The senders' means, and which of them are candidates, by Benjamini and Hochberg's rule step by step."""
    ranked = list[tuple[float, str]]()
    for stem, letter in ((branch.name, "H"), (f"{branch.name}.mlps", "MLP")):
        if f"{stem}.score" not in scores:
            continue
        names, p_values = list[tuple[float, str]](), list[float]()
        tables = (to_list(scores[f"{stem}.{name}"]) for name in ("score", "p", "per_example", "reach"))
        for layer, rows in enumerate(zip(*tables, strict=True)):
            for index, (score, p, each, reach) in enumerate(zip(*rows, strict=True)):
                if reach:
                    yield gap(score, _mean(each))
                    names.append((score, f"L{layer}MLP" if letter == "MLP" else f"L{layer}H{index}"))
                    p_values.append(p)
        ascending = sorted(p_values)
        passed = [p for rank, p in enumerate(ascending, 1) if p * len(ascending) <= rank * job.spec.level * (1 + NEAR)]
        cut = max(passed, default=-1.0)
        ranked += [one for one, p in zip(names, p_values, strict=True) if p <= cut and one[0] <= -least]
    best = {name for _, name in sorted(ranked)[: job.spec.keep]}
    yield 0.0 if best == set(branch.candidates) else inf


def _held_out_gaps(scores: Scores, summary: DiscoverySummary) -> Iterator[float]:
    """The edges' means."""
    for edge, each in zip(summary.edges, to_list(scores["held_out"]), strict=True):
        yield gap(edge.score, sum(each) / len(each))


def _graph(job: Job[Discovery], summary: DiscoverySummary) -> Iterator[float]:
    """Holm's rule over all edges, one after the other; and what of the edges beyond chance leads to the logits."""
    ordered, rejected = sorted(summary.edges, key=lambda edge: edge.p), list[EdgeRecord]()
    for index, edge in enumerate(ordered):
        if edge.p * (len(ordered) - index) > job.spec.level * (1 + NEAR):
            break
        rejected.append(edge)
    owner = {
        (node, group.at): group.name for group in summary.groups for node in (*group.nodes, *group.dropped)
    }  # fmt: skip
    ends = _leading(rejected, owner)
    for edge in summary.edges:
        expected = any(edge is one for one in rejected) and edge.into in ends
        yield 0.0 if edge.in_graph == expected else inf
    nodes = {(edge.node, edge.at) for edge in summary.graph}
    yield 0.0 if nodes == {(one.node, one.at) for one in summary.nodes} else inf


def _leading(edges: list[EdgeRecord], owner: Mapping[tuple[str, str], str]) -> set[str]:
    """The logits, and the groups from which some way of edges leads there."""
    ends, size = {"logits"}, 0
    while len(ends) > size:
        size = len(ends)
        ends |= {owner[edge.node, edge.at] for edge in edges if edge.into in ends}
    return ends


def statements(known: Known, _: str, result: MethodResult[DiscoverySummary]) -> Iterator[Statement]:
    """The graph has every planted head at its position, and no head that was planted to be read by nothing."""
    nodes = {(Head.parse(one.node), one.at) for one in result.summary.nodes if one.node.count("H")}
    for group in known.circuit.groups:
        found = {head for head, at in nodes if at == group.at and head in group.heads}
        yield same_heads(group.name, set(group.heads), found)
    yield same_heads("distractors", set(), {head for head, _ in nodes if head in known.unread})
