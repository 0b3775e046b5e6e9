"""Attention knockout: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Knockout
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.knockout.summary import KnockoutSummary
from nnsight_et.methods.sections import KNOCKOUT
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[Knockout]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, rows) = setting.job.spec, setting.first
    yield texts_made("evaluation", 2 * spec.examples, name)
    for edge in spec.edges:
        yield "", name, passes_of.knockout(rows, spec.examples, edge.blind, spec.first_layers(rows.top)[:-1])


def _experiment() -> Experiment[Knockout, KnockoutSummary]:
    from nnsight_et.methods.knockout.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="knockout", spec=Knockout, summary=KnockoutSummary, cost=cost, section=KNOCKOUT, experiment=_experiment
)
