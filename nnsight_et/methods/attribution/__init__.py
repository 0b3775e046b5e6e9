"""Attribution: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Attribution
from nnsight_et.methods.attribution.summary import AttributionSummary
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.sections import ATTRIBUTION
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[Attribution]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, rows) = setting.job.spec, setting.first
    yield texts_made("discovery", 2 * spec.examples, name)
    for at in spec.at:
        yield "", name, passes_of.every_head(rows, spec.examples, at)


def _experiment() -> Experiment[Attribution, AttributionSummary]:
    from nnsight_et.methods.attribution.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="attribution",
    spec=Attribution,
    summary=AttributionSummary,
    cost=cost,
    section=ATTRIBUTION,
    experiment=_experiment,
)
