"""What the summary of a comparison says."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from nnsight_et.results.records import CircuitRecord, HeadName, Record
from nnsight_et.results.summary import Summary


class OverlapRow(Record):
    """How many heads two circuits' groups of one name have, and how many they share."""

    group: str
    """The name of the groups; total for all of them."""
    first: int
    """How many heads the first circuit has in it."""
    second: int
    """How many the second has."""
    shared: int
    """How many both have."""
    precision: float | None
    """shared / first; null where the first has none."""
    recall: float | None
    """shared / second; null where the second has none."""


class ImpactRecord(Record):
    """A head of either circuit."""

    head: HeadName
    """Its name, such as L9H3."""
    score: float
    """Its largest |patching score| in the result named as `scores`."""
    in_pretrained: bool
    """Whether the first circuit has it."""
    in_finetuned: bool
    """Whether the second has it."""


class ComparisonSummary(Summary):
    """How two circuits overlap."""

    scores: ClassVar = ()
    rows: list[OverlapRow]
    """A row per group, then the total."""
    first: CircuitRecord
    """The first circuit."""
    second: CircuitRecord
    """The second circuit."""
    impact: list[ImpactRecord] = Field(default_factory=list[ImpactRecord])
    """All heads of both, the largest score first; where `scores` is named."""
