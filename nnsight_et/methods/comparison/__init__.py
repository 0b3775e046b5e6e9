"""The comparison of circuits: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Comparison
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.comparison.summary import ComparisonSummary
from nnsight_et.methods.sections import OVERLAP
from nnsight_et.planning.cost.pieces import CostSetting, Piece


def cost(setting: CostSetting[Comparison]) -> Iterator[Piece]:
    """Nothing: it compares what others found."""
    yield from ()


def _experiment() -> Experiment[Comparison, ComparisonSummary]:
    from nnsight_et.methods.comparison.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="comparison", spec=Comparison, summary=ComparisonSummary, cost=cost, section=OVERLAP, experiment=_experiment
)
