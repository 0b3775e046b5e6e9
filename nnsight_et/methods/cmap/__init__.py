"""CMAP: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.core.circuit import Circuit
from nnsight_et.manifest import CMAP
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.cmap.summary import CMAPSummary
from nnsight_et.methods.sections import ACROSS
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost import pieces
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made

INPUTS = 4  # ways in which a donor's inputs are given: each of three, and all


def cost(setting: CostSetting[CMAP]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, circuit = setting.job.spec, setting.circuit
    donor, recipient = (choice.name for choice in setting.job.models)
    n, given, taken = spec.examples, setting.rows[donor], setting.rows[recipient]
    anywhere = pieces.anywhere(circuit, taken.sizes.shape)
    sets = [*(Circuit((group,)) for group in circuit.groups), circuit, *([anywhere] * spec.random_sets)]
    yield texts_made("evaluation", 2 * n, recipient)
    yield f"{donor}: plain {n}", donor, passes_of.plain(given, n)
    yield "", donor, passes_of.whole(given, n, given.top)
    yield f"{recipient}: plain {n}", recipient, passes_of.plain(taken, n)
    yield "", recipient, passes_of.recipient_work(taken, n, sets)
    for group in circuit.groups if spec.inputs else ():
        yield "", donor, passes_of.donor_input_work(given, n, group)
        yield "", recipient, passes_of.recipient_input_work(taken, n, group, INPUTS)


def _experiment() -> Experiment[CMAP, CMAPSummary]:
    from nnsight_et.methods.cmap.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(name="cmap", spec=CMAP, summary=CMAPSummary, cost=cost, section=ACROSS, experiment=_experiment)
