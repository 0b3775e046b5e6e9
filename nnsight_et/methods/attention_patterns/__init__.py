"""Attention patterns: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import AttentionPatterns
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.sections import ATTENTION
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[AttentionPatterns]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, rows) = setting.job.spec, setting.first
    yield texts_made("evaluation", 2 * spec.examples, name)
    for _ in setting.circuit.positions:
        yield "", name, passes_of.whole(rows, spec.examples, rows.top)


def _experiment() -> Experiment[AttentionPatterns, AttentionPatternsSummary]:
    from nnsight_et.methods.attention_patterns.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="attention_patterns",
    spec=AttentionPatterns,
    summary=AttentionPatternsSummary,
    cost=cost,
    section=ATTENTION,
    experiment=_experiment,
)
