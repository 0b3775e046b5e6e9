"""What a graph says, in sentences: of each group where it reads and what it writes to."""

from __future__ import annotations

from collections.abc import Sequence

from nnsight_et.core.errors import quantity
from nnsight_et.methods.discovery.summary import DiscoverySummary, GroupOfNodes


def reads(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """Where the inputs of a group come from: "query from last_2; value from the token at correct_object"."""
    found = list[str]()
    owner = {(one.node, one.at): one.group for one in summary.nodes}
    for branch in summary.branches:
        if branch.into != group.name:
            continue
        sources = list(dict.fromkeys(owner[node, branch.at] for node in branch.found))
        if sources:
            found.append(f"{branch.via} from {listed(sources)} at {branch.at}")
        elif branch.why == "token" or (branch.why == "layer 0" and _matters(summary, branch.probes[0].score)):
            found.append(f"{branch.via} from the token at {branch.at}")
        elif branch.open and _matters(summary, branch.probes[0].score):
            found.append(f"{branch.via} at {branch.at}, from no node that was found")
    return "; ".join(found) or "nothing that was found"


def writes(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """What the group's nodes act on: "the logits and the key of last_1"."""
    members = {(node, group.at) for node in group.nodes}
    ends = dict.fromkeys((edge.into, edge.via) for edge in summary.graph if (edge.node, edge.at) in members)
    return listed(["the logits" if via is None else f"the {via} of {into}" for into, via in ends])


def sentence(summary: DiscoverySummary, group: GroupOfNodes) -> str:
    """What a group of the graph does, as far as paths say it."""
    count = quantity(len(group.nodes), "head" if group.kind == "heads" else "MLP")
    verbs = ("reads", "writes") if len(group.nodes) == 1 else ("read", "write")
    who = f"{group.name}, {count} at {group.at}"
    return f"{who}, {verbs[0]} {reads(summary, group)}, and {verbs[1]} to {writes(summary, group)}."


def listed(names: Sequence[str]) -> str:
    """The names with commas, and an "and" before the last."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _matters(summary: DiscoverySummary, score: float) -> bool:
    return score <= -summary.effect
