"""From a manifest's task to where its examples come from."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from nnsight_et.manifest import BoxesTask
from nnsight_et.manifest.methods.shared import Scored
from nnsight_et.manifest.own_pairs import PairsFile
from nnsight_et.named_metrics import METRICS
from nnsight_et.plan import Job
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.own_pairs import OwnPairs


def task_of(task: BoxesTask | PairsFile, foils: bool = False) -> Boxes | OwnPairs:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong.

    foils: whether they are to have foils, where the task makes them itself.
    """
    return _pairs_of(task) if isinstance(task, PairsFile) else replace(boxes_of(task), foils=foils)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    return OwnPairs.of(task.text, task.name, task.positions)


def boxes_of(task: BoxesTask | PairsFile) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)


def needs_foils(job: Job) -> bool:
    """Whether the job's metric compares the answer with foils."""
    return isinstance(job.spec, Scored) and METRICS[job.spec.metric].needs_foils
