"""Circuits as EAP-IG and auto-circuit have them: graphs of nodes and edges, without positions. JSON only.

A node is a head, an MLP, the embeddings or the logits. Their graphs have MLPs and edges, circuits here have heads at
positions: of a graph its heads are taken, and a circuit becomes the graph of its heads, all MLPs, and all edges between
these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import TaskError

EAP_IG = "a graph of EAP-IG, its heads alone"
AUTO_CIRCUIT = "edges named as in auto-circuit, their heads alone"
GROUP = "heads"  # what the one group of such a file is called; its position has to be given
NODE = re.compile(r"a([0-9]{1,6})[.]h([0-9]{1,6})")
OTHER = re.compile(r"input|logits|m[0-9]{1,6}")
END = re.compile(r"A([0-9]{1,6})[.]([0-9]{1,6})(?:[.][QKV])?|MLP [0-9]{1,6}|Resid (?:Start|End)")


@dataclass(frozen=True)
class Sizes:
    """What of a model decides which nodes and edges there are."""

    n_layers: int
    n_heads: int
    d_model: int
    parallel: bool
    """Whether an MLP does not see the heads of its own layer."""


def is_eap_ig(data: Any) -> bool:
    """Whether it is what EAP-IG's Graph.to_json writes."""
    return isinstance(data, dict) and {"cfg", "nodes", "edges"} <= set(data)


def is_auto_circuit(data: Any) -> bool:
    """Whether it is edges by auto-circuit's names: a list of them, or their scores."""
    return isinstance(data, (list, dict)) and bool(data) and all(isinstance(one, str) and "->" in one for one in data)


def of_eap_ig(data: Mapping[str, Any], where: str) -> HeadGroup:
    """The heads in the graph, the strongest first: by a node's own score, else by that of its edges in the graph."""
    nodes, edges = data["nodes"], data["edges"]
    if not isinstance(nodes, dict) or not isinstance(edges, dict):
        raise TaskError(f"{where}: nodes or edges are not objects; accepted: what Graph.to_json of EAP-IG writes")
    weights = dict[Head, float]()
    for name, said in nodes.items():
        match = NODE.fullmatch(name)
        if match is None and not OTHER.fullmatch(name):
            accept = "input, logits, m<layer> and a<layer>.h<head>, as Graph.to_json of EAP-IG writes them"
            raise TaskError(f"{where}: found node {name[:60]!a}; accepted: {accept}")
        if match and (said.get("in_graph") if isinstance(said, dict) else said):
            own = said.get("score") if isinstance(said, dict) else None
            weights[Head(int(match[1]), int(match[2]))] = abs(_number(own)) if own is not None else 0.0
    if not any(weights.values()):
        for name, said in edges.items():
            score = abs(_number(said.get("score"))) if isinstance(said, dict) and said.get("in_graph") else 0.0
            for match in NODE.finditer(name):
                head = Head(int(match[1]), int(match[2]))
                if head in weights:
                    weights[head] += score
    return HeadGroup(GROUP, "", tuple(sorted(weights, key=lambda head: (-weights[head], head))))


def of_auto_circuit(data: Sequence[str] | Mapping[str, Any], where: str) -> HeadGroup:
    """The heads at either end of an edge, the strongest first: by the scores of their edges; of score 0 none."""
    weights = dict[Head, float]()
    for name in data:
        score = abs(_number(data[name])) if isinstance(data, Mapping) else 1.0
        for end in name.split("->"):
            match = END.fullmatch(end)
            if match is None:
                accept = "A<layer>.<head>, with .Q, .K or .V where an edge ends, MLP <layer>, Resid Start, Resid End"
                raise TaskError(f"{where}: found edge {name[:60]!a}; accepted: {accept}")
            if match[1] and score:
                head = Head(int(match[1]), int(match[2]))
                weights[head] = weights.get(head, 0.0) + score
    ranked = sorted(weights, key=lambda head: (-weights[head], head)) if isinstance(data, Mapping) else sorted(weights)
    return HeadGroup(GROUP, "", tuple(ranked))


def to_eap_ig(circuit: Circuit, sizes: Sizes) -> dict[str, Any]:
    """What EAP-IG's Graph.from_json reads; scores are 0, as a circuit has none."""
    chosen = _heads(circuit)
    heads = [Head(layer, index) for layer in range(sizes.n_layers) for index in range(sizes.n_heads)]
    nodes = {"input": True} | {f"a{one.layer}.h{one.index}": one in chosen for one in heads}
    nodes |= {f"m{layer}": True for layer in range(sizes.n_layers)} | {"logits": True}

    def named(source: Head | int | None, end: Head | int | None, via: str) -> str:
        return f"{_eap_ig_name(source, 'input')}->{_eap_ig_name(end, 'logits')}" + (f"<{via}>" if via else "")

    edges = {
        named(source, end, via): {"score": 0.0, "in_graph": _is_in(source, chosen) and _is_in(end, chosen)}
        for source, end, via in _edges(heads, sizes)
    }
    return {
        "cfg": {
            "n_layers": sizes.n_layers,
            "n_heads": sizes.n_heads,
            "parallel_attn_mlp": sizes.parallel,
            "d_model": sizes.d_model,
        },
        "nodes": {name: {"in_graph": there} for name, there in nodes.items()},
        "edges": edges,
    }


def to_auto_circuit(circuit: Circuit, sizes: Sizes) -> list[str]:
    """The edges of the circuit's graph by their names in auto-circuit, with separate queries, keys and values."""

    def named(one: Head | int | None, otherwise: str, via: str = "") -> str:
        if isinstance(one, Head):
            return f"A{one.layer}.{one.index}" + (f".{via.upper()}" if via else "")
        return otherwise if one is None else f"MLP {one}"

    edges = _edges(sorted(_heads(circuit)), sizes)
    return [f"{named(source, 'Resid Start')}->{named(end, 'Resid End', via)}" for source, end, via in edges]


def _edges(heads: Sequence[Head], sizes: Sizes) -> Iterator[tuple[Head | int | None, Head | int | None, str]]:
    """Every edge between the embeddings (None), these heads, all MLPs (their layers) and the logits (None)."""
    before: list[Head | int | None] = [None]
    for layer in range(sizes.n_layers):
        here = [head for head in heads if head.layer == layer]
        yield from ((source, head, via) for source in before for head in here for via in "qkv")
        seen = before if sizes.parallel else [*before, *here]
        yield from ((source, layer, "") for source in seen)
        before = [*before, *here, layer]
    yield from ((source, None, "") for source in before)


def _heads(circuit: Circuit) -> set[Head]:
    return {head for group in circuit.groups for head in group.heads}


def _is_in(node: Head | int | None, heads: set[Head]) -> bool:
    return not isinstance(node, Head) or node in heads


def _eap_ig_name(node: Head | int | None, otherwise: str) -> str:
    if isinstance(node, Head):
        return f"a{node.layer}.h{node.index}"
    return otherwise if node is None else f"m{node}"


def _number(found: Any) -> float:
    """A score; NaN, which EAP-IG writes for a node without one, is none."""
    number = float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else 0.0
    return number if number == number else 0.0
