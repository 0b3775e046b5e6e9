"""What results of discovery are shown with: tables, the graph as a figure, heat maps, and rows of long tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.circuit_figures import StageView, colour_legend, heat_map
from nnsight_et.display.figures import Arrow, Diagram, FigureGroup, Node
from nnsight_et.display.measurement import (
    TidyRow,
    all_heads,
    all_mlps,
    number_at,
    of_experiment,
    suffix_of_metric,
    tensors_of_group,
)
from nnsight_et.display.table import Table, number, signed_score, table_of
from nnsight_et.manifest import Discovery
from nnsight_et.methods.discovery.summary import BranchRecord, DiscoverySummary, EdgeRecord, GroupOfNodes, ProbeRecord
from nnsight_et.methods.discovery.words import nothing_found, reads, writes
from nnsight_et.methods.path_patching.present import score_note
from nnsight_et.results.headers import ResultHeader, metric_of, models_of, name_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study

WHY = {
    "logits": "the logits",
    "effect": "open",
    "sampled": "closed, searched as one of the sample",
    "nothing": "closed: no effect",
    "token": "closed: the token itself, no head",
    "layer 0": "closed: nothing below",
    "branches": "not opened: as many were as may be",
    "budget": "not opened: the budget is spent",
}


def headline(summary: DiscoverySummary) -> str:
    """How large the graph is."""
    if not summary.nodes:
        return "nothing found"
    return f"{quantity(len(summary.nodes), 'node')} and {quantity(len(summary.graph), 'edge')} beyond chance"


def tables(header: ResultHeader, summary: DiscoverySummary) -> tuple[Table, ...]:
    """The groups, the edges of the graph, and every branch with what became of it."""
    return _groups(header, summary), _edges(header, summary), _branches(header, summary)


def _groups(header: ResultHeader, summary: DiscoverySummary) -> Table:
    best = _strongest(summary)
    metric = metric_of(header)
    columns: dict[str, Callable[[GroupOfNodes], Any]] = {
        "group": lambda group: group.name,
        "at": lambda group: group.at,
        "nodes": lambda group: len(group.nodes),
        "node and score": lambda group: ", ".join(
            f"{node} {signed_score(best[node, group.at], metric)}" for node in group.nodes
        ),
        "reads": lambda group: reads(summary, group),
        "writes to": lambda group: writes(summary, group),
    }
    rows = [group for group in summary.groups if group.nodes]
    return table_of(
        header, f"circuit of {models_of(header)}, found without stages", columns, rows, _found(header, summary)
    )


def _strongest(summary: DiscoverySummary) -> dict[tuple[str, str], float]:
    """Node and position -> the score of its strongest edge in the graph."""
    best = dict[tuple[str, str], float]()
    for edge in summary.graph:
        best[edge.node, edge.at] = min(edge.score, best.get((edge.node, edge.at), edge.score))
    return best


def _found(header: ResultHeader, summary: DiscoverySummary) -> str:
    """What was searched and what it cost, in sentences."""
    opened = sum(one.open for one in summary.branches) - 1
    ended = {"nothing more": "nothing more was found", "branches": "as many branches were opened as may be"}
    share = summary.cost.total / summary.cost.exhaustive if summary.cost.exhaustive else 0.0
    branches = quantity(len(summary.branches) - 1, "branch", "branches")
    sentences = [
        f"Scores: on {summary.held_out_examples} held-out examples; the strongest edge of each node.",
        f"{opened} of {branches} opened; the search ended: {ended.get(summary.ended, 'the budget was spent')}.",
        f"Cost: {share:.0%} of patching all senders of all these branches on all examples.",
    ]
    sample = summary.closed_sample
    if sample.searched:
        sentences.append(
            f"Of {sample.closed} closed branches {sample.searched} were searched all the same: {sample.found} had an "
            f"edge (95% interval of the share: {number(sample.low)} to {number(sample.high)})."
        )
    if summary.stability is not None:
        sentences.append(f"Stability: {summary.stability:.2f}, mean Jaccard index with what resampled examples find.")
    if not summary.nodes:
        assert isinstance(header.job.spec, Discovery)
        sentences.append(nothing_found(header.job.spec, summary))
    return " ".join(sentences)


def _edges(header: ResultHeader, summary: DiscoverySummary) -> Table:
    metric = metric_of(header)

    def score(edge: EdgeRecord) -> str:
        bounds = ", ".join(signed_score(one, metric) for one in (edge.low, edge.high))
        return f"{signed_score(edge.score, metric)} [{bounds}]"

    columns: dict[str, Callable[[EdgeRecord], Any]] = {
        "node": lambda edge: edge.node,
        "at": lambda edge: edge.at,
        "into": lambda edge: edge.into,
        "via": lambda edge: edge.via or "–",
        "score": score,
        "p (Holm)": lambda edge: f"{edge.p_holm:.2g}",
        "when searched": lambda edge: signed_score(edge.search_score, metric),
        "resamples": lambda edge: edge.frequency,
    }
    tested, beyond = len(summary.edges), len(summary.graph)
    assert isinstance(header.job.spec, Discovery)
    note = (
        f"{score_note(metric)} On {summary.held_out_examples} held-out examples, with 95% intervals. "
        f"{beyond} of {tested} tested edges are in the graph: beyond chance at "
        f"{header.job.spec.level} over all {tested} together "
        f"(Holm), and connected. Resamples: the share in which the score is worth keeping on the examples searched."
    )
    return table_of(header, f"edges in {models_of(header)}", columns, summary.graph, note)


def _branches(header: ResultHeader, summary: DiscoverySummary) -> Table:
    metric = metric_of(header)

    def probe(what: str, branch: BranchRecord) -> str:
        found = [one for one in branch.probes if one.what == what]
        return signed_score(min(found, key=lambda one: one.score).score, metric) if found else "–"

    columns: dict[str, Callable[[BranchRecord], Any]] = {
        "into": lambda branch: branch.into,
        "via": lambda branch: branch.via or "–",
        "at": lambda branch: branch.at,
        "whole": lambda branch: probe("whole", branch),
        "heads": lambda branch: probe("heads", branch),
        "strongest half": lambda branch: probe("half", branch),
        "became of it": lambda branch: WHY[branch.why],
        "tested": lambda branch: branch.tested,
        "in the graph": lambda branch: " ".join(branch.found) or "–",
    }
    note = (
        "Whole: the input is the source's. Heads: only the part of it that heads write. Strongest half: of "
        "random halves of these heads, the strongest. "
        f"A branch is opened by a mean effect of {signed_score(-summary.effect, metric)} or stronger."
    )
    return table_of(header, f"branches searched in {models_of(header)}", columns, summary.branches, note)


def figures(result: MethodResult[DiscoverySummary], study: Study) -> tuple[FigureGroup, ...]:
    """The graph, if anything was found, and a heat map of every branch that was searched."""
    header, summary, metric = result.header, result.summary, metric_of(result.header)
    views = [view_of(one, summary, mlps) for one in summary.branches if one.open for mlps in (False, True)]
    views = [one for one in views if f"{one.group}.score" in result.scores]
    panels = tuple(heat_map(one, result.scores, metric) for one in views)
    nodes = quantity(len(summary.nodes), "node")
    caption = (
        f"{nodes} in {quantity(len(summary.circuit.groups) + len(summary.mlps), 'group')}, found from the task alone. "
        "Arrows: whose query (Q), key (K) or value (V) the group below reaches, or which MLPs' input (I)."
    )
    graph = FigureGroup(f"{name_of(header)}-graph", f"Graph of {models_of(header)}", caption, (diagram(summary),))
    title = f"Patching scores in {models_of(header)}, branch by branch"
    scores = FigureGroup(f"{name_of(header)}-scores", title, colour_legend(metric, panels), panels)
    return (graph, scores) if summary.nodes else (scores,)


def diagram(summary: DiscoverySummary) -> Diagram:
    """The groups of the graph, each below those that it writes to, and an arrow for each input that another reaches."""
    owner, best = {(one.node, one.at): one.group for one in summary.nodes}, _strongest(summary)
    arrows = dict.fromkeys(Arrow(owner[edge.node, edge.at], edge.into, edge.via) for edge in summary.graph)
    left, ordered = [group for group in summary.groups if group.nodes], list[GroupOfNodes]()
    while left:
        names = {group.name for group in left}
        waiting = {one.source for one in arrows if one.target in names and one.target != one.source}
        ready = next((group for group in left if group.name not in waiting), left[0])  # in a circle, the first found
        ordered.append(ready)
        left.remove(ready)
    nodes = tuple(_box(group, best) for group in ordered)
    return Diagram("graph", _in_order(dict.fromkeys(group.at for group in ordered), summary), nodes, tuple(arrows))


def _in_order(places: Collection[str], summary: DiscoverySummary) -> tuple[str, ...]:
    """The positions in the order of a prompt, in which a group's keys come from those before its own."""
    before = dict[str, list[str]]()
    for branch in summary.branches:
        if branch.via == "key":
            before.setdefault(branch.into, []).append(branch.at)
    known = max(before.values(), key=len, default=list[str]())
    return tuple(sorted(places, key=lambda place: known.index(place) if place in known else len(known)))


def _box(group: GroupOfNodes, best: dict[tuple[str, str], float]) -> Node:
    kind = "head" if group.kind == "heads" else "MLP"
    scored = ", ".join(f"{node} {best[node, group.at]:+.3f}" for node in group.nodes)
    text = f"{group.name} at {group.at}: {quantity(len(group.nodes), kind)}: {scored}"
    return Node(group.name, group.at, len(group.nodes), tuple(group.nodes), text, kind)


def view_of(branch: BranchRecord, summary: DiscoverySummary, mlps: bool) -> StageView:
    """A searched branch as heat maps show a stage."""
    edges = {edge.node: edge.search_score for edge in _edges_of(branch, summary) if edge.node.endswith("MLP") == mlps}
    beyond = {node for node in branch.found if node in edges}
    name = f"{branch.name}{'.mlps' * mlps}"
    return StageView(name, branch.into, branch.via, branch.at, mlps, edges, beyond)


def _edges_of(branch: BranchRecord, summary: DiscoverySummary) -> list[EdgeRecord]:
    place = (branch.into, branch.via, branch.at)
    return [edge for edge in summary.edges if (edge.into, edge.via, edge.at) == place]


def metrics(result: MethodResult[DiscoverySummary]) -> Iterator[TidyRow]:
    """How many nodes, edges and branches there are, what the search cost, and how stable it is."""
    summary, place = result.summary, of_experiment(result.header)
    yield place.of("nodes", len(summary.nodes))
    yield place.of("edges", len(summary.graph))
    yield place.of("edges_tested", len(summary.edges))
    yield place.of("branches", len(summary.branches) - 1)
    yield place.of("branches_opened", sum(one.open for one in summary.branches) - 1)
    yield place.of("stability", summary.stability)
    yield place.of("base_value", summary.base)
    yield place.of("token_layers", summary.cost.total)
    yield place.of("token_layers_exhaustive", summary.cost.exhaustive)
    for branch in summary.branches:
        for index, probe in enumerate(branch.probes):
            where = replace(place, group=branch.name, at=branch.at, condition=_probe_name(probe, index))
            yield where.of("probe_effect", probe.score, p=probe.p)


def _probe_name(probe: ProbeRecord, index: int) -> str:
    return f"half {index - 1}" if probe.what == "half" else probe.what


def heads(result: MethodResult[DiscoverySummary]) -> Iterator[TidyRow]:
    """Per searched branch and sender its score where it was searched; of tested edges also the held-out one."""
    suffix = suffix_of_metric(result.header)
    for branch in result.summary.branches:
        edges = {edge.node: edge for edge in _edges_of(branch, result.summary)}
        for mlps in (False, True):
            stem = f"{branch.name}{'.mlps' * mlps}"
            if f"{stem}.score" not in result.scores:
                continue
            tensors = tensors_of_group(result, stem)
            place = replace(of_experiment(result.header), group=branch.name, at=branch.at)
            place = replace(place, condition=f"into {branch.into}" + (f" via {branch.via}" if branch.via else ""))
            for head in (all_mlps if mlps else all_heads)(tensors["score"]):
                reached = bool(tensors["reach"][head])
                one = replace(place.at_head(head), kept=str(head) in branch.found, reached=reached)
                p = number_at(tensors["p"], head)
                score = number_at(tensors["score"], head) if reached else 0.0
                yield one.of(f"patching_score{suffix}", score, p=p)
                if (edge := edges.get(str(head))) is not None:
                    again = one.of(f"held_out_patching_score{suffix}", edge.score, (edge.low, edge.high), edge.p)
                    yield replace(again, p_adjusted=edge.p_holm)
