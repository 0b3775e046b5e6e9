"""What the summary of a result is made of: every key of result.json's `summary`, with what it holds."""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ResultError
from nnsight_et.results.headers import ResultHeader, method_of, name_of

Interval = Annotated[list[float | None], Field(min_length=2, max_length=2)]
"""Low and high end of a 95% interval; null where there is none."""
Gradient = Literal["autograd", "finite differences"]
"""How derivatives were taken."""


class Record(BaseModel):
    """Base of everything a summary is made of: no unknown keys, no changes, a docstring under each field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the keys that were given, and no others."""
        return self.model_dump(exclude_unset=True)


class GroupRecord(Record):
    """A group of heads at a position."""

    name: str
    """The group's name."""
    at: str
    """The named position of its heads."""
    heads: list[str]
    """The names of its heads, such as L9H3, the most important first."""


class MlpGroupRecord(Record):
    """A group of MLPs at a position; they are in no circuit."""

    name: str
    """The group's name."""
    at: str
    """The named position of its MLPs."""
    mlps: list[str]
    """The names of its MLPs, such as L9MLP, the most important first."""


class CircuitRecord(Record):
    """A circuit, as files of circuits hold it."""

    schema_version: Literal[1] = Field(alias="schema")
    """Which form it has."""
    groups: list[GroupRecord]
    """Its groups of heads."""

    @classmethod
    def of(cls, circuit: Circuit) -> Self:
        """The record of a circuit."""
        return cls.model_validate(circuit.to_dict())

    def to_circuit(self, where: str = "circuit") -> Circuit:
        """The circuit; TaskError naming `where` if a head has no such name."""
        return Circuit.from_dict(self.to_dict(), where)


class ScoredToken(Record):
    """A token that examples are scored by."""

    text: str
    """What it adds to the text before it."""
    token: str
    """Its name in the vocabulary."""
    id: int
    """Its number in the vocabulary."""


class Summary(Record):
    """Base of every method's summary: what any of them may say."""

    smaller_chunks: dict[str, int] = {}
    """Model and dtype -> tokens of one pass, where memory ran out and passes were made smaller."""
    tokens: dict[str, dict[str, list[ScoredToken]]] = {}
    """Of a task of your own: model -> answer, also right, foil -> the tokens that examples are scored by."""

    @classmethod
    def read(cls, header: ResultHeader) -> Self:
        """The summary of a result; ResultError naming the first key that is wrong."""
        try:
            return cls.model_validate(header.summary)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in ("summary", *first["loc"]))
            found = f"its result is not one of {method_of(header)} ({where}: {first['msg']})"
            raise ResultError(f"{name_of(header)}: {found}") from None

    @property
    def gradients(self) -> Set[Gradient]:
        """How derivatives were taken, by a method that takes some."""
        return frozenset()


S = TypeVar("S", bound=Summary)
