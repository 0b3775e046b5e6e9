"""Graphs of discovery as files: JSON as networkx reads it (node_link_graph), and GraphML.

An edge into a group was measured into all that the group has at once; in files it goes to each node of the group, with
the group's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as Xml

from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.results.headers import method_of
from nnsight_et.results.store import Result

LOGITS = "logits"
NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
KINDS = {str: "string", float: "double"}


def graph_files(result: Result) -> Iterator[tuple[str, bytes]]:
    """How the files of a result's graph end, and what is in them; none if it has no graph."""
    if method_of(result.header) == "discovery":
        graph = plain_graph(DiscoverySummary.read(result.header))
        yield "graph.json", (json.dumps(graph, indent=1) + "\n").encode()
        yield "graphml", graphml(graph)


def plain_graph(summary: DiscoverySummary) -> dict[str, Any]:
    """The graph as networkx's node-link data; a node's id is its name and position, such as L5H0@last."""
    members = {group.name: [f"{name}@{group.at}" for name in group.nodes] for group in summary.groups}
    nodes: list[dict[str, Any]] = [{"id": LOGITS}]
    for one in summary.nodes:
        kind = "mlp" if one.node.endswith("MLP") else "head"
        nodes.append({"id": f"{one.node}@{one.at}", "name": one.node, "at": one.at, "group": one.group, "kind": kind})
    edges = list[dict[str, Any]]()
    for edge in summary.graph:
        said = {"via": edge.via or "", "into": edge.into, "score": edge.score, "low": edge.low, "high": edge.high}
        said |= {"p": edge.p, "p_holm": edge.p_holm, "frequency": edge.frequency}
        for target in [LOGITS] if edge.via is None else members[edge.into]:
            key = edge.via or "direct"  # one node can reach another through its key and through its value
            edges.append({"source": f"{edge.node}@{edge.at}", "target": target, "key": key, **said})
    return {"directed": True, "multigraph": True, "graph": {}, "nodes": nodes, "edges": edges}


def graphml(graph: dict[str, Any]) -> bytes:
    """The same as GraphML, all values with their types."""
    root = Xml.Element("graphml", xmlns=NAMESPACE)
    keys = dict[tuple[str, str], str]()
    for kind in ("node", "edge"):
        for one in graph[f"{kind}s"]:
            for name, value in one.items():
                if name not in ("id", "source", "target", "key") and (kind, name) not in keys:
                    keys[kind, name] = f"{kind}_{name}"
                    said = {"attr.name": name, "attr.type": KINDS[type(value)], "for": kind}
                    Xml.SubElement(root, "key", id=keys[kind, name], attrib=said)
    drawn = Xml.SubElement(root, "graph", edgedefault="directed")
    for kind in ("node", "edge"):
        for one in graph[f"{kind}s"]:
            places = {name: one[name] for name in ("id", "source", "target") if name in one}
            made = Xml.SubElement(drawn, kind, attrib=places)
            for name, value in one.items():
                if (kind, name) in keys:
                    Xml.SubElement(made, "data", key=keys[kind, name]).text = str(value)
    Xml.indent(root)
    return Xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
