"""The words of a search: nodes, groups, branches; which groups nodes form, and what is left of a graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from nnsight_et.core.circuit import Component, Head, Mlp
from nnsight_et.engine.paths import End, Kind, Path
from nnsight_et.models.catalog import Shape

LOGITS = "logits"
Profile = Sequence[float]


class Node(NamedTuple):
    """A head or MLP at a named position."""

    part: Component
    at: str

    @property
    def kind(self) -> Kind:
        """What it is one of."""
        return "mlps" if isinstance(self.part, Mlp) else "heads"


class Edge(NamedTuple):
    """A node's way into a group, or into the logits."""

    node: Node
    branch: Branch


@dataclass(frozen=True)
class Group:
    """Nodes at one position that react alike, the strongest first."""

    name: str
    at: str
    kind: Kind
    parts: tuple[Component, ...]
    round: int

    @property
    def bottom(self) -> bool:
        """Whether its nodes are heads of layer 0, which read the tokens themselves."""
        return is_bottom(Node(self.parts[0], self.at))


@dataclass(frozen=True)
class Branch:
    """An input of a group, and a position that it comes from; of the logits `last` alone."""

    into: str
    via: End | None
    at: str
    receivers: tuple[Component, ...] = ()

    @property
    def name(self) -> str:
        """What its tensors' names begin with."""
        return self.into if self.via is None else f"{self.into}.{self.via}.{self.at}"

    def path(self, senders: Kind = "heads") -> Path:
        """The path of its senders."""
        return Path(self.at, self.via, self.receivers, senders=senders)

    def senders(self, shape: Shape, kind: Kind) -> list[Component]:
        """The heads, or MLPs, that can reach its end."""
        return self.path(kind).reaching(shape.n_layers, shape.n_heads, shape.parallel)


def is_bottom(node: Node) -> bool:
    """Whether nothing can send to the node: a head of layer 0."""
    return node.kind == "heads" and node.part.layer == 0


def inputs_of(
    kind: Kind, at: str, positions: Sequence[str], unordered: Callable[[str, str], bool]
) -> list[tuple[End, str]]:
    """The inputs of nodes at a position, and where they come from: queries there, keys and values there and before."""
    if kind == "mlps":
        return [("input", at)]
    before = [one for one in positions[: positions.index(at) + 1] if one == at or not unordered(one, at)]
    return [("query", at), *((via, one) for via in ("key", "value") for one in before)]


def branches_of(group: Group, positions: Sequence[str], unordered: Callable[[str, str], bool]) -> list[Branch]:
    """The branches of a group."""
    inputs = inputs_of(group.kind, group.at, positions, unordered)
    return [Branch(group.name, via, at, group.parts) for via, at in inputs]


def grouped(
    profiles: Mapping[Node, Profile], least: float, alike: float, taken: Collection[str], number: int
) -> list[Group]:
    """Groups of nodes at one position whose profiles have a cosine of at least `alike` with their first node's.

    Nodes are in the order of their strength. Those whose profile is shorter than `least` react to nothing: they are
    alike. taken: the names that other groups have.
    """
    places: dict[tuple[str, Kind], list[list[Node]]] = {}
    for node, profile in profiles.items():
        groups = places.setdefault((node.at, node.kind), [])
        near = [(_likeness(profile, profiles[group[0]], least), -index) for index, group in enumerate(groups)]
        best, index = max(near, default=(-1.0, 0))
        if best >= alike and near:
            groups[-index].append(node)
        else:
            groups.append([node])
    found = list[Group]()
    for (at, kind), groups in places.items():
        for nodes in groups:
            names = {*taken, *(group.name for group in found)}
            found.append(Group(free_name(at, kind, names), at, kind, tuple(node.part for node in nodes), number))
    return found


def free_name(at: str, kind: Kind, taken: Collection[str]) -> str:
    """The name of a further group at a position: last_1, last_2, ..."""
    stem = f"{at}_mlps" if kind == "mlps" else at
    return next(name for count in range(1, len(taken) + 2) if (name := f"{stem}_{count}") not in taken)


def _likeness(one: Profile, other: Profile, least: float) -> float:
    """The cosine of two profiles; 1 where both are shorter than `least`, -1 where one is."""
    sizes = [sqrt(sum(value * value for value in profile)) for profile in (one, other)]
    if min(sizes) < least:
        return 1.0 if max(sizes) < least else -1.0
    return sum(a * b for a, b in zip(one, other, strict=True)) / (sizes[0] * sizes[1])


def connected(edges: Iterable[Edge], groups: Mapping[Node, str]) -> set[Edge]:
    """The edges that lead, one after the other over nodes that have one, to the logits."""
    left, alive, kept = list(edges), {LOGITS}, set[Edge]()
    while more := [edge for edge in left if edge.branch.into in alive]:
        left = [edge for edge in left if edge.branch.into not in alive]
        kept.update(more)
        alive |= {groups[edge.node] for edge in more}
    return kept


def halves(senders: Sequence[Component], order: Sequence[int]) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """The heads in two halves, by an order of their numbers; each in the order of a forward pass."""
    middle = len(order) // 2
    first, second = (
        tuple(Head(*senders[index]) for index in sorted(some)) for some in (order[:middle], order[middle:])
    )
    return first, second


def halves_of_layers(senders: Sequence[Component], seed: str) -> tuple[tuple[Head, ...], ...]:
    """The heads of each layer in two halves, drawn at random; of a single head one."""
    draw, found = random.Random(seed), list[tuple[Head, ...]]()
    for layer in dict.fromkeys(sender.layer for sender in senders):
        heads = [sender for sender in senders if sender.layer == layer]
        order = list(range(len(heads)))
        draw.shuffle(order)
        found += filter(None, halves(heads, order))
    return tuple(found)
