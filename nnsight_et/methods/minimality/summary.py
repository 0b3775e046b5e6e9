"""What the summary of minimality says."""

from __future__ import annotations

from typing import Literal

from nnsight_et.results.summary import CircuitRecord, Interval, Record, Summary


class HeadRecord(Record):
    """A head of the candidate circuit, tried without the heads that make up for it. Accuracies are from 0 to 1."""

    group: str
    """The group it is in."""
    head: str
    """Its name, such as L9H3."""
    without: list[str]
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
    tied: list[str]
    """Heads that make up for it as well as the last one removed does, and were not removed."""


class MinimalitySummary(Summary):
    """The circuit that is left, and what each head of the candidate adds."""

    circuit: CircuitRecord
    """The heads that were kept."""
    candidate: CircuitRecord
    """The circuit that was tried."""
    heads: list[HeadRecord]
    """The candidate's heads, group by group."""
