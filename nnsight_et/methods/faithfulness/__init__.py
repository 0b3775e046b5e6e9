"""Faithfulness: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import Faithfulness
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
from nnsight_et.methods.sections import FAITHFULNESS
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, ablation_means, circuits_alone, texts_made


def cost(setting: CostSetting[Faithfulness]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec = setting.job.spec
    for choice in setting.job.models:
        yield texts_made("evaluation", 2 * spec.examples, choice.name)
        yield from ablation_means(setting, choice.name)
        yield (
            f"{choice.name}: plain {spec.examples}",
            choice.name,
            passes_of.plain(setting.rows[choice.name], spec.examples),
        )
        yield circuits_alone(setting, choice.name, 1 + spec.random_circuits)


def _experiment() -> Experiment[Faithfulness, FaithfulnessSummary]:
    from nnsight_et.methods.faithfulness.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="faithfulness",
    spec=Faithfulness,
    summary=FaithfulnessSummary,
    cost=cost,
    section=FAITHFULNESS,
    experiment=_experiment,
)
