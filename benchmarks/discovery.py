"""`python -m benchmarks.discovery`: what discovery finds where a circuit was planted, and where nothing matters.

Every model is searched as users search it. Nodes and edges of heads that count segments (layer 0) are left out of
the truth: which of them matter follows from the others, and a search finds as many as it has examples for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.setting import traced, written
from nnsight_et.core.batch import Example, collate
from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.core.named_metrics import DEFAULT_METRIC
from nnsight_et.core.statistics import benjamini_hochberg, effect_p_values, holm, log_ratios
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.manifest import parse
from nnsight_et.measuring.stage_scores import effects
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.zoo.hard import BACKUP, CARRIED, NOISY, SOME_PROMPTS
from nnsight_et.zoo.known import CROWDED, GROUPED, LABEL, POSITION, Known, make_model, parse_heads, store
from nnsight_et.zoo.plant import LAYER_0, layers_of
from nnsight_et.zoo.tokenizer import word_tokenizer

Edge = tuple[str, str, str]
"""A sender, its position, and the branch it reaches."""
LEVEL = 0.05
NOISE = 0.01
"""Standard deviation of what is added to every weight of attention, of which planted ones are 0.1 and more."""
PAIR = replace(
    POSITION,
    name="backup pair",
    heads=(
        *LAYER_0,
        *parse_heads(
            """L1H0 structure_reader 1; L2H0 position_detector 1; L3H0 position_transmitter .7;
            L3H5 position_transmitter .7; L4H0 value_fetcher .5; L4H1 value_fetcher .5"""
        ),
    ),
)
TWELVE = replace(
    POSITION,
    name="twelve",
    n_layers=12,
    heads=(
        *LAYER_0,
        *parse_heads(
            """L3H0 structure_reader 1; L6H0 position_detector 1; L9H0 position_transmitter 1;
            L11H0 value_fetcher .5; L11H1 value_fetcher .5"""
        ),
    ),
)
DEEP = replace(
    POSITION,
    name="deep",
    n_layers=16,
    heads=(
        *LAYER_0,
        *parse_heads(
            """L4H0 structure_reader 1; L8H0 position_detector 1; L12H0 position_transmitter 1;
            L15H0 value_fetcher .5; L15H1 value_fetcher .5"""
        ),
    ),
)
"""Both as deep as real models are: what a search saves grows with the heads below a branch."""


def with_noise(known: Known, seed: int) -> LlamaForCausalLM:
    """The model with noise in all weights of attention."""
    model, draw = make_model(known, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers_of(model):
            for weight in layer.self_attn.parameters():
                weight += NOISE * torch.randn(weight.shape, generator=draw)
    return model


def nothing(known: Known, seed: int) -> LlamaForCausalLM:
    """A model of random weights: its heads write a lot, and no head has anything to do with the answer."""
    model = make_model(known, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.1)
    return model


class Case(NamedTuple):
    """A kind of model: its truth, how it is made, and whether anything is planted in it."""

    known: Known
    make: Callable[[Known, int], LlamaForCausalLM]
    planted: bool = True


CASES = {
    "four stages": Case(POSITION, make_model),
    "grouped queries": Case(GROUPED, make_model),
    "by label": Case(LABEL, make_model),
    "distractors": Case(CROWDED, make_model),
    "backup pair": Case(PAIR, make_model),
    "backup": Case(BACKUP, make_model),
    "carried by an MLP": Case(CARRIED, make_model),
    "some prompts": Case(SOME_PROMPTS, make_model),
    "twelve layers": Case(TWELVE, make_model),
    "deep": Case(DEEP, make_model),
    "noisy": Case(NOISY, make_model),
    "noise": Case(POSITION, with_noise),
    "grouped queries with noise": Case(GROUPED, with_noise),
    "nothing": Case(POSITION, nothing, planted=False),
}


def search(case: Case, seed: int, folder: Path, sizes: dict[str, Any], boxes: int = 7) -> DiscoverySummary:
    """What discovery finds in a model of that kind."""
    store(case.make(case.known, seed), folder / "model")
    spec = {"method": "discovery", "model": "model", **sizes}
    data = {"name": "d", "seed": seed, "device": "cpu", "self_check": "off", "probe": "off"}
    data |= {"task": {"kind": "boxes", "boxes": boxes}}
    data |= {"models": {"model": {"path": "./model"}}, "experiments": {"found": spec}}
    jobs = plan(parse(json.dumps(data), "discovery", lines=False).in_folder(folder))
    list(run(jobs, folder / "runs"))
    return read_result(folder_of(folder / "runs", jobs) / "found").read(DiscoverySummary).summary


def exhaustive(model: LlamaForCausalLM, summary: DiscoverySummary, examples: Sequence[Example]) -> dict[str, set[Edge]]:
    """The edges that patching every sender of every branch of the same groups finds: of that effect, and beyond chance.

    By the correction over all of them, at the level that a search has by default: "holm" has the search's error rate,
    "bh" a laxer one and finds more.
    """
    wrapped, pair = traced(model), collate(examples, 0)
    members = {one.name: tuple(map(Head.parse, [*one.nodes, *one.dropped])) for one in summary.groups}
    names, scores, values = list[Edge](), list[Tensor](), list[Tensor]()
    for branch in summary.branches:
        path = PatchedPath(branch.at, branch.via, members.get(branch.into, ()))
        senders = path.reaching(wrapped.n_layers, wrapped.n_heads)
        if senders:
            found = path_probabilities(wrapped, pair, path, senders, "default", Chunks())
            names += [(str(sender), branch.at, branch.name) for sender in senders]
            scores.append(effects(found, DEFAULT_METRIC).mean(-1))
            values.append(effect_p_values(log_ratios(found["patched"], found["base"])))
    strong, p_values = torch.cat(scores) <= -summary.effect, torch.cat(values)
    edges = dict[str, set[Edge]]()
    for name, correct in (("holm", holm), ("bh", benjamini_hochberg)):
        beyond: list[bool] = to_list(strong & (correct(p_values) <= LEVEL))
        edges[name] = {edge for edge, found in zip(names, beyond, strict=True) if found}
    return edges


def edges_of(summary: DiscoverySummary, tested: bool = False) -> set[Edge]:
    """The edges of a graph, named alike; or all that were `tested` for it, which are those the search found."""
    names = {(one.into, one.via, one.at): one.name for one in summary.branches}
    edges = summary.edges if tested else summary.graph
    return {(edge.node, edge.at, names[edge.into, edge.via, edge.at]) for edge in edges}


def truth(known: Known) -> tuple[set[Any], set[Any]]:
    """The planted nodes, and edges as (head, position, planted group it goes into, via)."""
    groups = known.groups
    nodes = {(head, one.at) for one in known.circuit.groups for head in one.heads}
    edges = {
        (head, one.at, groups[one.name].into, groups[one.name].via)
        for one in known.circuit.groups
        for head in one.heads
    }
    return nodes, edges


def found_in(known: Known, summary: DiscoverySummary) -> tuple[set[Any], set[Any]]:
    """The same of what was found; a group that is not of one planted group's heads has its own name."""
    counters = {one.head for one in known.heads if one.role.startswith("segment")}
    roles = {(head, one.at): one.name for one in known.circuit.groups for head in one.heads}
    names = {"logits": "logits"}
    for group in summary.groups:
        ours = {roles.get((Head.parse(name), group.at), name) for name in group.nodes if not name.endswith("MLP")}
        names[group.name] = ours.pop() if len(ours) == 1 else group.name
    nodes = {(Head.parse(one.node), one.at) for one in summary.nodes if not one.node.endswith("MLP")}
    edges = {(Head.parse(one.node), one.at, names[one.into], one.via) for one in summary.graph if "H" in one.node}
    return {one for one in nodes if one[0] not in counters}, {one for one in edges if one[0] not in counters}


def rows(
    cases: list[str], seeds: int, sizes: dict[str, Any], *, boxes: int = 7, compared: int = 0
) -> Iterator[dict[str, Any]]:
    """Of each model what was found beside what was planted, and what the exhaustive search finds on some prompts.

    On held-out prompts the graph is compared with it, on those of the search what the search found.
    """
    for name in cases:
        case = CASES[name]
        for seed in range(seeds):
            with TemporaryDirectory() as place:
                summary = search(case, seed, Path(place), sizes, boxes)
            row: dict[str, Any] = {
                "model": name,
                "seed": seed,
                "nodes": len(summary.nodes),
                "edges": len(summary.graph),
            }
            if case.planted:
                for what, there, found in zip(
                    ("node", "edge"), truth(case.known), found_in(case.known, summary), strict=True
                ):
                    row[f"{what}_precision"] = len(there & found) / len(found) if found else 0.0
                    row[f"{what}_recall"] = len(there & found) / len(there)
                    row[f"{what}s_wrong"] = [" ".join(map(str, one)) for one in sorted(found - there, key=str)]
            cost = summary.cost
            row |= {"cost": cost.total, "exhaustive": cost.exhaustive, "share": round(cost.total / cost.exhaustive, 3)}
            row |= {"branches": len(summary.branches) - 1, "opened": sum(one.open for one in summary.branches) - 1}
            if compared:
                every = Boxes(boxes).examples(word_tokenizer(), sum(sizes.values()), seed, "discovery")
                for where, some in (("held_out", every[-compared:]), ("searched", every[:compared])):
                    found = edges_of(summary, tested=where == "searched")
                    everything = exhaustive(case.make(case.known, seed), summary, some)
                    for correction, edges in everything.items():
                        row[f"{where}_{correction}"] = len(edges)
                        row[f"recall_{where}_{correction}"] = len(edges & found) / len(edges) if edges else None
                        row[f"missed_{where}_{correction}"] = [" ".join(one) for one in sorted(edges - found)]
            yield row


def main(words: Sequence[str] | None = None) -> None:
    """Search, show a line per model, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--boxes", type=int, default=7)
    parser.add_argument(
        "--exhaustive", type=int, default=0, help="on how many prompts of each sample to compare with it"
    )
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    sizes, found = {"examples": given.examples, "held_out_examples": given.held_out}, list[dict[str, Any]]()
    for row in rows(given.cases.split(","), given.seeds, sizes, boxes=given.boxes, compared=given.exhaustive):
        print(json.dumps(row), flush=True)
        found.append(row)
    print(f"Written to {written('discovery', {**sizes, 'boxes': given.boxes, 'rows': found})}")


if __name__ == "__main__":
    main()
