"""Activation patching: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.manifest import ActivationPatching
from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.sections import ROLES
from nnsight_et.planning.cost import methods as passes_of
from nnsight_et.planning.cost.pieces import CostSetting, Piece, sets_of_groups, texts_made

DESIDERATA = ("object", "label", "position")  # what heads are selected for where nothing else is said


def cost(setting: CostSetting[ActivationPatching]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs."""
    spec = setting.job.spec
    sources = [sets_of_groups(setting.circuit)] * len(spec.desiderata or DESIDERATA)
    for choice in setting.job.models:
        yield texts_made(f"{spec.desiderata}", 3 * len(sources) * spec.draws * spec.examples, choice.name)
        yield "", choice.name, passes_of.patching_work(setting.rows[choice.name], spec.examples, sources) * spec.draws


def _experiment() -> Experiment[ActivationPatching, ActivationPatchingSummary]:
    from nnsight_et.methods.activation_patching.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="activation_patching",
    spec=ActivationPatching,
    summary=ActivationPatchingSummary,
    cost=cost,
    section=ROLES,
    experiment=_experiment,
)
