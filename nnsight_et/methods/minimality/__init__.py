"""Minimality: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Minimality
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.minimality.summary import MinimalitySummary
from nnsight_et.methods.sections import CIRCUITS
from nnsight_et.planning.cost.pieces import CostSetting, Piece, ablation_means, circuits_alone, texts_made


def cost(setting: CostSetting[Minimality]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, _) = setting.job.spec, setting.first
    yield texts_made("pruning", 2 * spec.examples, name)
    yield from ablation_means(setting, name)
    for group in setting.circuit.groups:
        heads = len(group.heads)
        yield circuits_alone(setting, name, heads * (heads + 1) // 2)
        yield circuits_alone(setting, name, 2 * heads)


def _experiment() -> Experiment[Minimality, MinimalitySummary]:
    from nnsight_et.methods.minimality.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="minimality", spec=Minimality, summary=MinimalitySummary, cost=cost, section=CIRCUITS, experiment=_experiment
)
