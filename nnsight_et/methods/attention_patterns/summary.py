"""What results of attention patterns say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import ConfigDict, model_validator

from nnsight_et.results.records import CircuitRecord, HeadName, Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary


class HeadAttention(Record):
    """Where one head looks: beside the keys below, its mean attention weight under the name of every column."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]  # pyright: ignore[reportIncompatibleVariableOverride] as pydantic asks for

    group: str
    """The head group's name."""
    at: str
    """The named position from which the head looks."""
    head: HeadName
    """The head's name, such as L4H1."""

    @property
    def weights(self) -> Mapping[str, float]:
        """By column: the mean over examples of the attention weight there; all columns together give 1."""
        return self.__pydantic_extra__


class AttentionPatternsSummary(Summary):
    """Where the circuit's heads look from their positions."""

    scores: ClassVar = (
        ScoreTensor(
            "{at}.weights",
            ("layer", "head", "column"),
            "Mean attention weight of every head from that position to each of `columns`, from 0 to 1.",
            each="rows",
        ),
    )
    rows: list[HeadAttention]
    """A row per head of each group, in the circuit's order."""
    columns: list[str]
    """Where heads can look: the task's named positions, "first token", and "other", which is all remaining tokens."""
    circuit: CircuitRecord
    """The circuit whose heads these are."""

    @model_validator(mode="after")
    def _has_every_weight(self) -> Self:
        if any(set(row.weights) != set(self.columns) for row in self.rows):
            raise ValueError("rows: not a weight for every column")
        return self
