"""What the summary of minimality says."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from nnsight_et.results.records import CircuitRecord, HeadName, Interval, Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary


class HeadRecord(Record):
    """A head of the candidate circuit, tried without the heads that make up for it. Accuracies are from 0 to 1."""

    group: str
    """The group it is in."""
    head: HeadName
    """Its name, such as L9H3."""
    without: list[HeadName]
    """The heads of its group that were removed first, because they make up for it (K)."""
    before: float
    """Accuracy of the circuit without them, with the head."""
    after: float
    """Accuracy of the circuit without them and without the head."""
    contribution: float | Literal["infinite"] | None
    """before / after - 1; infinite where all of the accuracy is the head's, null where there is none at all."""
    kept: bool
    """Whether it contributes at least the threshold."""
    before_interval: Interval
    """95% interval of `before` over examples."""
    after_interval: Interval
    """95% interval of `after`."""
    contribution_interval: Interval
    """95% interval of `contribution`."""
    tied: list[HeadName]
    """Heads that make up for it as well as the last one removed does, and were not removed."""


class MinimalitySummary(Summary):
    """The circuit that is left, and what each head of the candidate adds."""

    scores: ClassVar = (
        ScoreTensor(
            "{name}.before_after",
            ("head", "before and after"),
            "Accuracy of the circuit without K and without K and the head, from 0 to 1.",
            each="candidate.groups",
        ),
        ScoreTensor(
            "{name}.pair_accuracy",
            ("head", "other head"),
            "Accuracy of the circuit without two heads of the group, from 0 to 1; on the diagonal without one.",
            each="candidate.groups",
        ),
    )
    circuit: CircuitRecord
    """The heads that were kept."""
    candidate: CircuitRecord
    """The circuit that was tried."""
    heads: list[HeadRecord]
    """The candidate's heads, group by group."""

    @model_validator(mode="after")
    def _has_every_group(self) -> Self:
        if not {row.group for row in self.heads} <= {group.name for group in self.candidate.groups}:
            raise ValueError("heads: a group that is not in the candidate")
        return self
