"""What results of attribution say."""

from __future__ import annotations

from collections.abc import Set

from nnsight_et.results.summary import Gradient, Record, Summary


class Agreement(Record):
    """How well a gradient's estimates of all heads' effects at one position agree with the exact effects."""

    at: str
    """The named position."""
    pearson: float | None
    """Pearson's correlation of estimated and exact effects over the heads; null where one of them is constant."""
    spearman: float | None
    """Spearman's rank correlation of the same."""
    top: int
    """How many heads with the lowest effects count as the top ones."""
    top_found: float
    """The share of the top heads by exact effect that are top by estimate too."""
    gradient: Gradient = "autograd"
    """How the derivatives were taken."""


class AttributionSummary(Summary):
    """How well a gradient's estimate of every head's effect agrees with the exact one."""

    rows: list[Agreement]
    """A row per position, in the manifest's order."""
    model: str
    """The model's name."""

    @property
    def gradients(self) -> Set[Gradient]:
        """How the derivatives were taken."""
        return {row.gradient for row in self.rows}
