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
from transformers import LlamaForCausalLM

from benchmarks.setting import written
from nnsight_et.core.circuit import Head
from nnsight_et.manifest import parse
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
from nnsight_et.zoo.hard import BACKUP, CARRIED, NOISY, SOME_PROMPTS
from nnsight_et.zoo.known import CROWDED, GROUPED, LABEL, POSITION, Known, make_model, parse_heads, store
from nnsight_et.zoo.plant import LAYER_0, layers_of

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
"""As deep as real models are: what a search saves grows with the heads below a branch."""


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
    "deep": Case(DEEP, make_model),
    "noisy": Case(NOISY, make_model),
    "noise": Case(POSITION, with_noise),
    "grouped queries with noise": Case(GROUPED, with_noise),
    "nothing": Case(POSITION, nothing, planted=False),
}


def search(case: Case, seed: int, folder: Path, sizes: dict[str, Any]) -> DiscoverySummary:
    """What discovery finds in a model of that kind."""
    store(case.make(case.known, seed), folder / "model")
    spec = {"method": "discovery", "model": "model", **sizes}
    data = {"name": "d", "seed": seed, "device": "cpu", "self_check": "off", "probe": "off"}
    data |= {"models": {"model": {"path": "./model"}}, "experiments": {"found": spec}}
    jobs = plan(parse(json.dumps(data), "discovery", lines=False).in_folder(folder))
    list(run(jobs, folder / "runs"))
    return read_result(folder_of(folder / "runs", jobs) / "found").read(DiscoverySummary).summary


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


def rows(cases: list[str], seeds: int, sizes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each model what was found beside what was planted."""
    for name in cases:
        case = CASES[name]
        for seed in range(seeds):
            with TemporaryDirectory() as place:
                summary = search(case, seed, Path(place), sizes)
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
            yield row


def main(words: Sequence[str] | None = None) -> None:
    """Search, show a line per model, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=200)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    sizes, found = {"examples": given.examples, "held_out_examples": given.held_out}, list[dict[str, Any]]()
    for row in rows(given.cases.split(","), given.seeds, sizes):
        print(json.dumps(row), flush=True)
        found.append(row)
    print(f"Written to {written('discovery', {**sizes, 'rows': found})}")


if __name__ == "__main__":
    main()
