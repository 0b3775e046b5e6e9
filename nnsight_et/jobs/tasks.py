"""From a manifest's task to where its examples come from."""

from __future__ import annotations

from functools import lru_cache

from nnsight_et.manifest import BoxesTask
from nnsight_et.manifest.own_pairs import PairsFile
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.own_pairs import OwnPairs


def task_of(task: BoxesTask | PairsFile) -> Boxes | OwnPairs:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong."""
    return _pairs_of(task) if isinstance(task, PairsFile) else boxes_of(task)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    return OwnPairs.of(task.text, task.name, task.positions)


def boxes_of(task: BoxesTask | PairsFile) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)
