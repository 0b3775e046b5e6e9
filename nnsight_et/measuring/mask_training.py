"""The trainings of a DCM job: a mask per group and desideratum, one cell each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Pair
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.dcm import COURSE, Training, trained_masks
from nnsight_et.manifest import DCM
from nnsight_et.measuring.cell_records import digest_of
from nnsight_et.measuring.checks import check_cell, training_check
from nnsight_et.measuring.context import RunContext, Trained
from nnsight_et.measuring.self_check import Check, calls_of
from nnsight_et.measuring.steps import data_digest
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.summary import Gradient

AUTOGRAD: Gradient = "autograd"
DIFFERENCES: Gradient = "finite differences"


@dataclass(frozen=True)
class _Masks:
    """Those of one desideratum: what the store has of each group, and what trains the other groups together."""

    keys: dict[HeadGroup, str]
    cells: dict[HeadGroup, dict[str, Tensor] | None]
    checks: Sequence[Check]
    data: Sequence[list[Example]]

    @property
    def missing(self) -> list[HeadGroup]:
        """The groups that are still to be trained."""
        return [group for group, cell in self.cells.items() if cell is None]


def train_masks(
    context: RunContext, job: Job[DCM], groups: Sequence[HeadGroup], data: Mapping[str, Sequence[list[Example]]]
) -> Iterator[tuple[str, list[dict[str, Tensor]], int]]:
    """By desideratum what the training of each group found, and how many of them came from the store.

    data: training and validation examples by desideratum. The desiderata's trainings need nothing of each other: on a
    server they are one job, and workers share them.
    """
    masks = {name: _masks(context, job, groups, some) for name, some in data.items()}
    results = context.executor.results(
        job, job.models[0], chain.from_iterable(_calls(context, job, one) for one in masks.values())
    )
    for name, one in masks.items():
        missing, call = one.missing, next(iter(_calls(context, job, one)), None)
        if missing:
            found = next(results)
            for check in one.checks:
                check.verify([next(results) for _ in check.calls])
            for group, mask in zip(missing, found, strict=True):
                one.cells[group] = _keep_training(context, one.keys[group], mask)
        cells = {group: cell for group, cell in one.cells.items() if cell is not None}
        keys = [_key(one.keys[group], gradient_of(cell)) for group, cell in cells.items()]
        done = Trained(
            name, one.data, [(key, _course_key(key)) for key in keys], call, [group.name for group in missing]
        )
        context.trained.setdefault(job.name, []).append(done)
        yield name, list(cells.values()), len(groups) - len(missing)


def _masks(context: RunContext, job: Job[DCM], groups: Sequence[HeadGroup], data: Sequence[list[Example]]) -> _Masks:
    spec, digests = job.spec, [data_digest(examples) for examples in data]
    keys = {}
    for group in groups:
        what = {"group": Circuit((group,)).to_dict(), "training": vars(_training(job)), "batch": spec.batch}
        keys[group] = context.cells.key(job, job.models[0], {"dcm": what, "data": digests})
    cells = {group: _read_training(context, key) for group, key in keys.items()}
    pairs = digest_of(Call(trained_masks, (*data, spec.batch)))
    for group, cell in cells.items():
        asked = Call(trained_masks, ([group], _training(job), pairs))
        check_cell(context, job, "masks", keys[group], asked, cell is not None)
    missing = [group for group, cell in cells.items() if cell is None]
    return _Masks(keys, cells, training_check(context, job, missing, data) if missing else [], data)


def _calls(context: RunContext, job: Job[DCM], masks: _Masks) -> Iterator[Call]:
    """The training of the groups that the store does not have, and what checks it."""
    spec, choice = job.spec, job.models[0]
    if masks.missing:
        chunks = context.chunk_sizes.of(choice, masks.data[0])
        train, validation = ([*_batches(context, job, examples, spec.batch)] for examples in masks.data)
        name = " ".join(masks.keys.values())
        yield Call(trained_masks, (masks.missing, _training(job), train, validation, chunks), name)
        yield from calls_of(masks.checks, name)


def _training(job: Job[DCM]) -> Training:
    spec = job.spec
    return Training(spec.sparsity, spec.learning_rate, spec.epochs, spec.validate_every)


def gradient_of(found: Mapping[str, Tensor]) -> Gradient:
    """How the derivatives of a training were taken."""
    return AUTOGRAD if bool(found.get("autograd", torch.tensor(True)).all()) else DIFFERENCES


def _key(key: str, gradient: str) -> str:
    return key if gradient == AUTOGRAD else digest([key, gradient])


def _course_key(key: str) -> str:
    return digest([key, "course"])


def _keep_training(context: RunContext, key: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The training, now in the store: what it chose in one cell, how it went in another."""
    key = _key(key, gradient_of(found))
    context.cells.keep(_course_key(key), {name: found[name] for name in COURSE})
    context.cells.keep(key, {name: tensor for name, tensor in found.items() if name not in COURSE})
    return found


def _read_training(context: RunContext, key: str) -> dict[str, Tensor] | None:
    """A training by autograd; for work on a server also one by finite differences."""
    for gradient in (AUTOGRAD, DIFFERENCES) if context.models.on_server else (AUTOGRAD,):
        own = _key(key, gradient)
        found, course = context.cells.find(own), context.cells.find(_course_key(own))
        if found is not None and course is not None:  # stores of earlier versions lack the course
            return found | course
    return None


def _batches(context: RunContext, job: Job[DCM], examples: list[Example], size: int) -> Iterator[Pair]:
    """The examples in their order, `size` at a time."""
    for first in range(0, len(examples), size):
        yield context.data.pair(job.models[0], examples, range(first, min(first + size, len(examples))))
