"""DCM: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import DCM
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.dcm.summary import DCMSummary
from nnsight_et.methods.sections import ROLES
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, sets_of_groups, texts_made


def cost(setting: CostSetting[DCM]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec, (name, rows), groups = setting.job.spec, setting.first, setting.circuit.groups
    every = spec.training_examples + spec.validation_examples + spec.test_examples
    for desideratum in spec.desiderata:
        yield texts_made(f"{desideratum} of masks", 3 * every, name)
        if groups:
            yield "", name, passes_of.masks(rows, spec, groups)
    sets = [sets_of_groups(setting.circuit)] * len(spec.desiderata)
    for count in (spec.test_examples, spec.validation_examples):  # the selected heads, and all: the ceilings
        yield "", name, passes_of.patching_work(rows, count, sets)


def _experiment() -> Experiment[DCM, DCMSummary]:
    from nnsight_et.methods.dcm.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(name="dcm", spec=DCM, summary=DCMSummary, cost=cost, section=ROLES, experiment=_experiment)
