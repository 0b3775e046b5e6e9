"""What functions for notebooks accept: each argument checked before anything runs, and a message that names it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from nnsight_et.api.models import LoadedModel
from nnsight_et.api.pairs import Pairs
from nnsight_et.core.circuit import Circuit, Head, HeadGroup, Mlp, as_head
from nnsight_et.core.errors import TaskError, accepted_names, brief


class HasCircuit(Protocol):
    """What found, selected or read a circuit."""

    @property
    def circuit(self) -> Circuit:
        """The circuit."""
        ...


AnyHeads = Circuit | HasCircuit | HeadGroup | Sequence[HeadGroup] | Sequence[Head | str]
"""A circuit or a finding that has one, groups of heads, or heads: those of a plain list act at the last token."""


def check_setting(model: object, pairs: object, where: str = "pairs") -> None:
    """Raise TaskError unless these are a model and pairs; `where` is what the function calls the pairs."""
    check_model(model, "model")
    if not isinstance(pairs, Pairs):
        accept = "et.Pairs.of([...]), et.Pairs.read(file) or et.Pairs.boxes(count)"
        raise TaskError(f"{where}: {brief(pairs)}; accepted: {accept}")


def check_model(model: object, where: str) -> None:
    """Raise TaskError unless it is a loaded model."""
    if not isinstance(model, LoadedModel):
        raise TaskError(f"{where}: {brief(model)}; accepted: what et.load(...) returns")


def check_name(found: object, where: str, names: Sequence[str]) -> None:
    """Raise TaskError unless it is one of the names."""
    if found not in names:
        raise TaskError(f"{where}: {found!r}; {accepted_names(str(found), names)}")


def whole_number(found: Any, where: str, least: int = 0) -> int:
    """The whole number, of Python or numpy; TaskError if it is none, or smaller than the least."""
    try:
        number = operator.index(found)
    except TypeError:
        number = least - 1
    if number < least or isinstance(found, bool):
        raise TaskError(f"{where}: {found!r}; accepted: a whole number, {least} or more")
    return number


def number(found: Any, where: str, least: float, most: float) -> float:
    """The number, of Python or numpy; TaskError if it is none, or not between these."""
    if isinstance(found, (bool, str)) or not hasattr(found, "__float__") or not least <= float(found) <= most:
        raise TaskError(f"{where}: {brief(found)}; accepted: a number from {least:g} to {most:g}")
    return float(found)


def as_circuit(found: Any, where: str = "circuit") -> Circuit:
    """The circuit that is meant: one itself, that of a finding or a file, groups, or heads at the last token.

    TaskError if it is none, or a group has a head twice.
    """
    circuit = _as_circuit(found, where)
    for group in circuit.groups:
        if twice := [head for head, count in Counter(group.heads).items() if count > 1]:
            raise TaskError(f"group {group.name}: {twice[0]} appears twice; accepted: each head once")
    return circuit


def _as_circuit(found: Any, where: str) -> Circuit:
    for own in (found, getattr(found, "circuit", None)):
        if isinstance(own, Circuit):
            return own
    if isinstance(found, HeadGroup):
        return Circuit((found,))
    if isinstance(found, (str, Head, Mlp)) or not isinstance(found, Iterable):
        named = f"found {found}" if isinstance(found, (str, Head, Mlp)) else brief(found)
        raise TaskError(
            f'{where}: {named}; accepted: a circuit, scores, a group of heads, or a list of heads: ["L9H3", ...]'
        )
    some = tuple(found)
    if any(isinstance(one, HeadGroup) for one in some):
        return Circuit(some)
    try:
        heads = tuple(map(as_head, some))
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    return Circuit((HeadGroup("heads at last", "last", heads),))
