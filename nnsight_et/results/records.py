"""What results are made of wherever it appears: groups of heads, circuits, intervals."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nnsight_et.core.circuit import HEAD_NAME, MLP_NAME, Circuit
from nnsight_et.core.errors import TaskError

Interval = Annotated[list[float | None], Field(min_length=2, max_length=2)]
"""Low and high end of a 95% interval; null where there is none."""
HeadName = Annotated[str, Field(pattern=f"^{HEAD_NAME}$")]
"""The name of a head, such as L9H3."""
MlpName = Annotated[str, Field(pattern=f"^{MLP_NAME}$")]
"""The name of an MLP, such as L9MLP."""
PartName = Annotated[str, Field(pattern=f"^({HEAD_NAME}|{MLP_NAME})$")]
"""The name of a head or of an MLP."""


class Record(BaseModel):
    """Base of everything a result says: no unknown keys, no changes, a docstring under each field."""

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
    heads: list[HeadName]
    """The names of its heads, such as L9H3, the most important first."""


class MlpGroupRecord(Record):
    """A group of MLPs at a position; they are in no circuit."""

    name: str
    """The group's name."""
    at: str
    """The named position of its MLPs."""
    mlps: list[MlpName]
    """The names of its MLPs, such as L9MLP, the most important first."""


class CircuitRecord(Record):
    """A circuit, as files of circuits hold it."""

    schema_version: Literal[1] = Field(alias="schema")
    """Which form it has."""
    groups: list[GroupRecord]
    """Its groups of heads, each name once."""

    @classmethod
    def of(cls, circuit: Circuit) -> Self:
        """The record of a circuit."""
        return cls.model_validate(circuit.to_dict())

    def to_circuit(self) -> Circuit:
        """The circuit."""
        return Circuit.from_dict(self.to_dict())

    @model_validator(mode="after")
    def _is_circuit(self) -> Self:
        try:
            self.to_circuit()
        except TaskError as error:
            raise ValueError(str(error)) from None
        return self
