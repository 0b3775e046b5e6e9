"""What results of attribution say."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar

from nnsight_et.results.records import Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Gradient, Summary


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

    scores: ClassVar = tuple(
        ScoreTensor(f"{{at}}.{name}", ("layer", "head"), what, each="rows")
        for name, what in {
            "exact": "Mean exact effect of patching the head's output, (p_patched - p_base) / p_base.",
            "attributed": "Mean of the gradient's estimate of that effect.",
            "low": "Low end of the exact effect's 95% interval.",
            "high": "High end of it.",
        }.items()
    )
    rows: list[Agreement]
    """A row per position, in the manifest's order."""
    model: str
    """The model's name."""

    @property
    def gradients(self) -> Set[Gradient]:
        """How the derivatives were taken."""
        return {row.gradient for row in self.rows}
