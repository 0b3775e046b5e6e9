"""Discovery jobs: the search on one sample, every edge tested on another, and the graph that is left."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup
from nnsight_et.core.lists import to_list
from nnsight_et.core.statistics import effect_p_values, holm, mean_interval, resampled_means, wilson_interval
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import Discovery
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.missing_scores import check_scored
from nnsight_et.measuring.own_pairs import check_foils
from nnsight_et.measuring.predictions import select_examples
from nnsight_et.measuring.stage_scores import effects, over_all, tested_values
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.discovery import audit, present
from nnsight_et.methods.discovery.graph import Edge, Node, connected
from nnsight_et.methods.discovery.race import Trials
from nnsight_et.methods.discovery.search import Search, Searched
from nnsight_et.methods.discovery.summary import (
    BranchRecord,
    ClosedSample,
    CostRecord,
    DiscoverySummary,
    EdgeRecord,
    GroupOfNodes,
    NodeRecord,
)
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.records import CircuitRecord, MlpGroupRecord

SPLIT = "discovery"


def check(context: RunContext, job: Job[Discovery]) -> None:
    """Raise TaskError if the data cannot be made."""
    count = job.spec.examples + job.spec.held_out_examples
    check_foils(job, context.data.examples(job, job.models[0], SPLIT, count))


def measure(context: RunContext, job: Job[Discovery]) -> Generator[Progress, None, MethodOutput[DiscoverySummary]]:
    """Search, test, and put together what is beyond chance."""
    spec, choice = job.spec, job.models[0]
    count = spec.examples + spec.held_out_examples
    every = yield from select_examples(context, job, choice, SPLIT, count, spec.only_correct)
    examples, held_out = every[: spec.examples], every[spec.examples :]
    search = Search(Trials(context, job, examples))
    yield from search.steps()
    tests = yield from _tested_again(search, held_out)
    summary = _summary(search, tests, held_out)
    return MethodOutput(
        _tensors(search, tests), summary, digest([data_digest(sample) for sample in (examples, held_out)])
    )


@dataclass(frozen=True)
class Tests:
    """Every edge on the held-out examples, in the order of the search, of a branch the strongest first."""

    edges: tuple[Edge, ...]
    effects: Tensor
    """[edge, example]"""
    values: Tensor
    """[edge, example]: what is tested to be below 0."""
    cost: int


def _tested_again(search: Search, held_out: list[Example]) -> Generator[Progress, None, Tests]:
    """Patch the candidates of every branch on examples that had no say in choosing them, all in one measurement."""
    context, job = search.trials.context, search.trials.job
    metric = job.spec.metric
    paths, asked = list[tuple[Path, Component]](), list[Edge]()
    for one in search.branches.values():
        for kind in search.kinds:
            if parts := sorted(node.part for node in one.candidates if node.kind == kind):
                paths += [(one.branch.path(kind), part) for part in parts]
                asked += [Edge(Node(part, one.branch.at), one.branch) for part in parts]
    if not paths:
        return Tests((), torch.zeros(0, len(held_out)), torch.zeros(0, len(held_out)), 0)
    measurement, cost = search.trials.edges(paths, "held out", range(len(paths)), held_out)
    yield from measure_cells(context, [measurement])
    found = context.cells.values(measurement)
    check_scored(context, job, "held_out_examples", found, held_out)
    values = tested_values(found, metric)
    assert values is not None
    effect, places = effects(found, metric), list(search.branches)
    score: list[float] = to_list(effect.mean(-1))
    order = sorted(range(len(asked)), key=lambda index: (places.index(asked[index].branch.name), score[index]))
    return Tests(tuple(asked[index] for index in order), effect[order], values[order], cost)


def _summary(search: Search, tests: Tests, held_out: Sequence[Example]) -> DiscoverySummary:
    spec = search.spec
    p_values = effect_p_values(tests.values) if tests.edges else torch.zeros(0)
    adjusted = holm(p_values)
    found = (adjusted <= spec.level) & (tests.effects.mean(-1) < 0)
    beyond = [edge for edge, one in zip(tests.edges, to_list(found), strict=True) if one]
    graph = connected(beyond, search.group_of)
    edges = _edge_records(search, tests, graph, p_values, adjusted)
    best = {(edge.node, edge.at): edge.score for edge in sorted(edges, key=lambda edge: -edge.score) if edge.in_graph}
    groups = _group_records(search, best)
    nodes = [NodeRecord(node=one, at=group.at, group=group.name) for group in groups for one in group.nodes]
    of_heads = [group for group in groups if group.kind == "heads" and group.nodes]
    circuit = Circuit(tuple(HeadGroup(one.name, one.at, tuple(map(Head.parse, one.nodes))) for one in of_heads))
    of_mlps = [group for group in groups if group.kind == "mlps" and group.nodes]
    branches = [_branch_record(one, graph) for one in search.branches.values()]
    reasons = {one.why for one in branches}
    return DiscoverySummary(
        circuit=CircuitRecord.of(circuit),
        mlps=[MlpGroupRecord(name=one.name, at=one.at, mlps=one.nodes) for one in of_mlps],
        groups=groups,
        nodes=nodes,
        edges=edges,
        branches=branches,
        ended="budget" if "budget" in reasons else "branches" if "branches" in reasons else "nothing more",
        closed_sample=_sample_of(search.sampled_from, [bool(one.found) for one in branches if one.why == "sampled"]),
        cleared_sample=_sample_of(
            sum(one.cleared for one in branches),
            [not {*one.sampled}.isdisjoint(one.found) for one in branches if one.sampled],
        ),
        stability=_stability(search),
        cost=CostRecord(
            **search.trials.cost,
            held_out=tests.cost,
            exhaustive=search.exhaustive_cost(held_out if tests.edges else ()),
        ),
        examples=len(search.trials.examples),
        held_out_examples=len(held_out),
        base=next(reversed(search.trials.bases.values())).double().mean().item(),
        effect=search.trials.threshold,
    )


def _edge_records(
    search: Search, tests: Tests, graph: set[Edge], p_values: Tensor, adjusted: Tensor
) -> list[EdgeRecord]:
    """The edges in the order of the search, of a branch the strongest first."""
    low, high = mean_interval(tests.effects) if tests.edges else (tests.values, tests.values)
    numbers = [to_list(one) for one in (tests.effects.mean(-1), low, high, p_values, adjusted)]
    found = list[EdgeRecord]()
    for edge, score, least, most, p, p_holm in zip(tests.edges, *numbers, strict=True):
        again = resampled_means(_searched_effect(search.branches[edge.branch.name], edge.node), search.trials.job.seed)
        found.append(
            EdgeRecord(
                node=str(edge.node.part),
                at=edge.node.at,
                into=edge.branch.into,
                via=edge.branch.via,
                score=score,
                low=least,
                high=most,
                p=p,
                p_holm=p_holm,
                search_score=search.scores[edge],
                frequency=(again <= -search.trials.threshold).double().mean().item(),
                in_graph=edge in graph,
            )
        )
    return found


def _searched_effect(one: Searched, node: Node) -> Tensor:
    """[example]: the effect of a candidate where it was searched for, on the examples it was run on."""
    tested = one.tested[node.kind]
    effect = tested.raced.effect[tested.senders.index(node.part)]
    return effect[~effect.isnan()]


def _group_records(search: Search, best: Mapping[tuple[str, str], float]) -> list[GroupOfNodes]:
    """The groups; best: nodes of the graph by name and position -> their strongest edge's score."""
    records = list[GroupOfNodes]()
    for group in search.groups.values():
        names = list(map(str, group.parts))
        kept = sorted((name for name in names if (name, group.at) in best), key=lambda name: best[name, group.at])
        profiles = {str(part): search.profiles.get(Node(part, group.at), []) for part in group.parts}
        records.append(
            GroupOfNodes(
                name=group.name,
                at=group.at,
                kind=group.kind,
                round=group.round,
                nodes=kept,
                dropped=[name for name in names if name not in kept],
                profiles=profiles,
            )
        )
    return records


def _branch_record(one: Searched, graph: set[Edge]) -> BranchRecord:
    candidates, halves = [str(node.part) for node in one.candidates], one.halves
    return BranchRecord(
        name=one.branch.name,
        into=one.branch.into,
        via=one.branch.via,
        at=one.branch.at,
        why=one.why,
        probes=one.probes,
        tested=sum(int((~tested.raced.effect[:, 0].isnan()).sum()) for tested in one.tested.values()),
        halves=len(halves.members) if halves else 0,
        cleared=len(halves.members) - len(halves.opened) if halves else 0,
        sampled=list(map(str, halves.members[halves.sampled])) if halves and halves.sampled is not None else [],
        candidates=candidates,
        found=[str(node.part) for node in one.candidates if Edge(node, one.branch) in graph],
    )


def _sample_of(closed: int, found: Sequence[bool]) -> ClosedSample:
    """What those that were searched all the same say; found: of each whether it has an edge in the graph."""
    low, high = wilson_interval(sum(found), len(found)) if found else (None, None)
    return ClosedSample(closed=closed, searched=len(found), found=sum(found), low=low, high=high)


def _stability(search: Search) -> float | None:
    """The mean Jaccard index of senders with an effect, over all branches, with those of resampled examples."""
    shared = either = torch.zeros(1)
    for one in search.branches.values():
        for tested in one.tested.values():
            for effect in _as_far_as_run(tested.raced.effect):
                found = (effect.mean(-1) <= -search.trials.threshold)[:, None]
                again = resampled_means(effect, search.trials.job.seed) <= -search.trials.threshold
                shared, either = shared + (found & again).sum(0), either + (found | again).sum(0)
    return (shared / either.clamp(min=1)).mean().item() if either.any() else None


def _as_far_as_run(effect: Tensor) -> Iterator[Tensor]:
    """[sender, example] of those that were run on all examples, and of those that were on the first alone."""
    run = (~effect.isnan()).sum(-1)
    for count in sorted({*to_list(run)} - {0}):
        yield effect[run == count, :count]


def _tensors(search: Search, tests: Tests) -> dict[str, Tensor]:
    """Per searched branch what was found of its senders [layer, head, ...], of MLPs [layer, 1, ...]; and the rest.

    "<branch>.score", "per_example", "p", "p_bh" and "reach": score and effects are 0 and p is NaN of heads that do not
    reach the end; effects are NaN on examples that a sender was not run on. Of MLPs a branch's name ends in ".mlps".
    "<branch>.halves" [half, example]: effects of halves of layers; "<branch>.in_half" [layer, head]: each head's half.
    "<branch>.probes" [probe, example]: effects of its probes. "held_out" [edge, example]: effects of the summary's
    edges. "base" and "base_value" [example] are those of the base run.
    """
    tensors = dict(search.trials.bases)
    for one in search.branches.values():
        if one.probed is not None:
            tensors[f"{one.branch.name}.probes"] = one.probed
        for kind, tested in one.tested.items():
            raced = tested.raced
            found = {"score": raced.score, "per_example": raced.effect, "reach": torch.ones(len(raced.p)).bool()}
            placed = {name: over_all(values, tested.senders, search.shape, 0) for name, values in found.items()}
            found = {"p": raced.p, "p_bh": raced.p_bh}
            placed |= {name: over_all(values, tested.senders, search.shape, nan) for name, values in found.items()}
            stem = f"{one.branch.name}{'.mlps' * (kind == 'mlps')}"
            tensors |= {f"{stem}.{name}": values for name, values in placed.items()}
        if one.halves:
            number = {head: float(index) for index, half in enumerate(one.halves.members) for head in half}
            tensors[f"{one.branch.name}.halves"] = one.halves.effect
            tensors[f"{one.branch.name}.in_half"] = over_all(
                torch.tensor(list(number.values())), list(number), search.shape, nan
            )
    return tensors | {"held_out": tests.effects}


EXPERIMENT = Experiment(
    check=check,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=present.heads,
    paper=None,
    statements=audit.statements,
)
