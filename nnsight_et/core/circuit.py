"""Heads, groups of heads at a position, and circuits: their names and their JSON form; and the names of MLPs."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from nnsight_et.core.errors import TaskError, accepted_names, brief

SCHEMA = 1
HEAD_NAME = "L([0-9]{1,6})H([0-9]{1,6})"
MLP_NAME = "L([0-9]{1,6})MLP"


class Head(NamedTuple):
    """One attention head. Layers and indices count from 0, and indices are those of query heads.

    It equals the tuple (layer, index), but never an MLP. Sorted heads are in the order of a forward pass.

    Examples:
        >>> import nnsight_et as et
        >>> et.Head(9, 3), et.Head.parse("L4H0") < et.Head(9, 3)
        (L9H3, True)
    """

    layer: int
    index: int

    def __eq__(self, other: object) -> bool:
        return not isinstance(other, Mlp) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return f"L{self.layer}H{self.index}"

    @classmethod
    def parse(cls, name: str) -> Head:
        """The head called `name`, such as L9H3; TaskError if it is not a head's name."""
        match = re.fullmatch(HEAD_NAME, name) if isinstance(name, str) else None
        if match is None:
            raise TaskError(f"{name!r} is not the name of a head; accepted: L<layer>H<index>, such as L9H3")
        return cls(int(match[1]), int(match[2]))


class Mlp(NamedTuple):
    """The MLP of a layer: no part of any circuit, but what a path can begin or end in.

    Its index is always 0: of MLPs there is one in a layer, so that tables of them are [layer, 1]. Equal to no head.
    """

    layer: int
    index: int = 0

    def __eq__(self, other: object) -> bool:
        return not isinstance(other, Head) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return f"L{self.layer}MLP"

    @classmethod
    def parse(cls, name: str) -> Mlp:
        """The MLP called `name`, such as L9MLP; TaskError if it is not an MLP's name."""
        match = re.fullmatch(MLP_NAME, name) if isinstance(name, str) else None
        if match is None:
            raise TaskError(f"{name!r} is not the name of an MLP; accepted: L<layer>MLP, such as L9MLP")
        return cls(int(match[1]))


Component = Head | Mlp
"""What a path can begin or end in."""
Via = Literal["query", "key", "value"]
"""An input of a head."""


def part(name: str) -> Component:
    """The head or MLP called `name`, such as L9H3 or L9MLP; TaskError if it is the name of neither."""
    return Mlp.parse(name) if isinstance(name, str) and name.endswith("MLP") else Head.parse(name)


def transformer_lens_place(one: Component) -> tuple[str, int | None]:
    """What TransformerLens calls its output: a hook, and the head on the hook's axis of heads; None of an MLP.

    >>> transformer_lens_place(Head(9, 6)), transformer_lens_place(Mlp(3))
    (('blocks.9.attn.hook_z', 6), ('blocks.3.hook_mlp_out', None))
    """
    if isinstance(one, Mlp):
        return f"blocks.{one.layer}.hook_mlp_out", None
    return f"blocks.{one.layer}.attn.hook_z", one.index


def as_part(one: object) -> Component:
    """The head or MLP that `one` is or names, or whose layer and index it is; TaskError if it is none."""
    if isinstance(one, str):
        return part(one)
    if isinstance(one, (Head, Mlp)) and type(one.layer) is type(one.index) is int and min(one) >= 0:
        return one
    try:
        layer, index = map(operator.index, one)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise TaskError(f"{brief(one)}, which is not a head; accepted: Head(9, 3) or a name such as L9H3") from None
    if layer < 0 or index < 0:
        raise TaskError(f"the head {tuple(one)} has a negative number; accepted: layer and index from 0")  # type: ignore[arg-type]
    return Mlp(layer) if isinstance(one, Mlp) else Head(layer, index)


def as_head(one: object) -> Head:
    """The same of heads alone: TaskError if it is an MLP."""
    found = as_part(one)
    if isinstance(found, Mlp):
        raise TaskError(f"{found} is an MLP, and a circuit consists of heads; accepted: heads, such as L9H3")
    return found


@dataclass(frozen=True)
class HeadGroup:
    """Heads that do one job at one named position.

    Args:
        name: A name for the group, such as "movers".
        at: The named position of the prompts at which the heads act, such as "last".
        heads: The heads or their names, the most important first.

    Raises:
        TaskError: Something in `heads` is not a head.

    Examples:
        >>> import nnsight_et as et
        >>> et.HeadGroup("movers", "last", ["L5H0", et.Head(5, 2)]).heads
        (L5H0, L5H2)
    """

    name: str
    at: str
    heads: tuple[Head, ...]
    """Written as heads, or by their names: ["L9H3", Head(4, 0)]."""

    def __post_init__(self) -> None:
        for field, found in (("name", self.name), ("at", self.at)):
            if not isinstance(found, str):
                raise TaskError(f"{field} of a head group: {found!r}; accepted: a name in quotes")
        heads: Any = self.heads
        if isinstance(heads, (str, Head, Mlp)):
            raise TaskError(f"group {self.name}: {str(heads)!r}; accepted: a list of heads, such as [{str(heads)!r}]")
        if not isinstance(heads, Iterable):
            raise TaskError(f"group {self.name}: {brief(heads)}; accepted: a list of heads")
        object.__setattr__(self, "heads", tuple(map(as_head, heads)))


@dataclass(frozen=True)
class Circuit:
    """Groups of heads at named positions: the paper's set of pairs of head and token (§4.1).

    `et.circuit_of` makes one of groups. `to_json` and `from_json` write and read it as text.

    Examples:
        >>> import nnsight_et as et
        >>> circuit = et.Circuit((et.HeadGroup("movers", "last", ["L5H0", "L5H2"]),))
        >>> circuit.size, circuit.positions, et.Circuit.from_json(circuit.to_json()) == circuit
        (2, ('last',), True)
    """

    groups: tuple[HeadGroup, ...]

    def __post_init__(self) -> None:
        groups: Any = self.groups
        found = (groups,) if isinstance(groups, (HeadGroup, str)) or not isinstance(groups, Iterable) else tuple(groups)
        for group in found:
            if not isinstance(group, HeadGroup):
                raise TaskError(
                    f'circuit: {brief(group)}; accepted: groups, such as HeadGroup("mine", "last", ["L9H3"])'
                )
        object.__setattr__(self, "groups", found)

    @property
    def positions(self) -> tuple[str, ...]:
        """The named positions of the groups, each once, in the groups' order."""
        return tuple(dict.fromkeys(group.at for group in self.groups))

    @property
    def size(self) -> int:
        """How many (head, group) pairs there are; a head in two groups counts twice."""
        return sum(len(group.heads) for group in self.groups)

    def at(self, position: str) -> frozenset[Head]:
        """The heads of all groups at `position`."""
        return frozenset(head for group in self.groups if group.at == position for head in group.heads)

    def group(self, name: str) -> HeadGroup:
        """The group called `name`; TaskError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise TaskError(
            f"the circuit has no group {name!r}; {accepted_names(name, (group.name for group in self.groups))}"
        )

    @classmethod
    def from_stages(cls, groups: Iterable[HeadGroup]) -> Circuit:
        """The groups as stages found them: a head that a later one has at its position leaves the earlier (§4.1)."""
        found = tuple(groups)
        kept = []
        for index, group in enumerate(found):
            later = {head for other in found[index + 1 :] if other.at == group.at for head in other.heads}
            kept.append(HeadGroup(group.name, group.at, tuple(head for head in group.heads if head not in later)))
        return cls(tuple(kept))

    def without(self, other: Circuit) -> Circuit:
        """This circuit when each of its groups loses the heads of the other's group of the same name."""
        groups = []
        for group in self.groups:
            gone = {head for one in other.groups if one.name == group.name for head in one.heads}
            groups.append(HeadGroup(group.name, group.at, tuple(head for head in group.heads if head not in gone)))
        return Circuit(tuple(groups))

    def check_fits(self, n_layers: int, n_heads: int, where: str) -> None:
        """Raise TaskError if a head lies outside a model of n_layers x n_heads."""
        for group in self.groups:
            for head in group.heads:
                if head.layer >= n_layers or head.index >= n_heads:
                    raise TaskError(
                        f"{where}: group {group.name} has {head}; the model has layers L0-L{n_layers - 1} "
                        f"and heads H0-H{n_heads - 1}"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: {"schema": 1, "groups": [{"name", "at", "heads": ["L9H3", ...]}]}."""
        groups = [
            {"name": group.name, "at": group.at, "heads": [str(head) for head in group.heads]} for group in self.groups
        ]
        return {"schema": SCHEMA, "groups": groups}

    def to_transformer_lens(self) -> list[dict[str, Any]]:
        """One a head: its "hook" and "head" in TransformerLens, and its "group" and the position it is "at"."""
        return [
            {"group": group.name, "at": group.at}
            | dict(zip(("hook", "head"), transformer_lens_place(one), strict=True))
            for group in self.groups
            for one in group.heads
        ]

    def to_json(self) -> str:
        """The circuit as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: object, where: str = "circuit") -> Circuit:
        """The circuit in `data` (the form of to_dict); TaskError naming `where` if it is not one."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("groups"), list):
            raise TaskError(f'{where}: not a circuit; accepted: {{"schema": {SCHEMA}, "groups": [...]}}')
        groups = tuple(_group(entry, f"{where}: groups[{i}]") for i, entry in enumerate(data["groups"]))
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise TaskError(
                f"{where}: two groups have the same name ({', '.join(names)}); accepted: a different name for each"
            )
        return cls(groups)

    @classmethod
    def from_json(cls, text: str, where: str = "circuit") -> Circuit:
        """The circuit written in `text`; TaskError naming `where` if it is not one."""
        try:
            data = json.loads(text)
        except RecursionError:
            raise TaskError(f"{where}: nested too deeply; accepted: a circuit's JSON") from None
        except (ValueError, TypeError) as error:
            raise TaskError(f"{where}: not JSON ({error}); accepted: a circuit's JSON") from None
        return cls.from_dict(data, where)


def _group(entry: object, where: str) -> HeadGroup:
    fields = entry if isinstance(entry, dict) else {}
    name, at, heads = fields.get("name"), fields.get("at"), fields.get("heads")
    known = set(fields) == {"name", "at", "heads"}
    if not known or not isinstance(name, str) or not isinstance(at, str) or not f"{name}{at}".isprintable():
        raise TaskError(f'{where}: accepted: {{"name": text, "at": position, "heads": ["L9H3", ...]}}')
    if not isinstance(heads, list):
        raise TaskError(f"{where}: heads is not a list")
    try:
        parsed = tuple(Head.parse(head) for head in heads)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    if len(set(parsed)) < len(parsed):
        raise TaskError(f"{where}: the head {_repeated_head(parsed)} appears twice; accepted: each head once")
    return HeadGroup(name, at, parsed)


def _repeated_head(heads: Iterable[Head]) -> Head:
    seen: set[Head] = set()
    return next(head for head in heads if head in seen or seen.add(head))
