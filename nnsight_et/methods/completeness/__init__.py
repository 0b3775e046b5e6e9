"""Completeness: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Completeness
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.completeness.summary import CompletenessSummary
from nnsight_et.methods.sections import COMPLETENESS
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, ablation_means, circuits_alone, texts_made


def cost(setting: CostSetting[Completeness]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, rows), circuit = setting.job.spec, setting.first, setting.circuit
    sets = spec.draws + len(circuit.groups)
    yield texts_made("evaluation", 2 * spec.examples, name)
    yield from ablation_means(setting, name)
    yield circuits_alone(setting, name, sets)
    yield "", name, passes_of.without(rows, spec.examples, sets, circuit.positions)


def _experiment() -> Experiment[Completeness, CompletenessSummary]:
    from nnsight_et.methods.completeness.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="completeness",
    spec=Completeness,
    summary=CompletenessSummary,
    cost=cost,
    section=COMPLETENESS,
    experiment=_experiment,
)
