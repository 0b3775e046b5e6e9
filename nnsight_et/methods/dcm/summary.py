"""What results of DCM say."""

from __future__ import annotations

from collections.abc import Set

from pydantic import Field

from nnsight_et.results.summary import CircuitRecord, Gradient, Interval, Record, Summary


class GroupMask(Record):
    """The mask of one group, trained for one desideratum and tried on test examples."""

    group: str
    """The head group's name."""
    desideratum: str
    """The desideratum's name."""
    selected: list[str]
    """The names of the heads whose mask is 0, such as L4H1: those that carry the variable."""
    heads: int
    """How many heads the group has."""
    tied: list[list[str]] = Field(default_factory=list[list[str]])
    """The other sets of as many heads that did as well in validation, the earliest first."""
    gradient: Gradient = "autograd"
    """How the derivatives were taken in training."""
    accuracy: float
    """How often patching the selected heads gives the desideratum's answer: a share of the test examples."""
    accuracy_interval: Interval | None = None
    """The 95% interval of `accuracy`."""
    do_nothing: float
    """How often that answer is given when nothing is patched."""
    do_nothing_interval: Interval | None = None
    """The 95% interval of `do_nothing`."""


class DCMSummary(Summary):
    """Which heads of each group carry which variable."""

    rows: list[GroupMask]
    """Per desideratum, a row for every group that has heads, in the circuit's order."""
    circuit: CircuitRecord
    """The circuit whose groups have masks."""

    @property
    def gradients(self) -> Set[Gradient]:
        """How the derivatives were taken."""
        return {row.gradient for row in self.rows}
