"""What results of DCM say."""

from __future__ import annotations

from collections.abc import Set
from typing import ClassVar, Self

from pydantic import Field, model_validator

from nnsight_et.results.records import CircuitRecord, HeadName, Interval, Record
from nnsight_et.results.scores import ScoreTensor, answers
from nnsight_et.results.summary import Gradient, Reason, Summary


class GroupMask(Record):
    """The mask of one group, trained for one desideratum and tried on test examples."""

    group: str
    """The head group's name."""
    desideratum: str
    """The desideratum's name."""
    selected: list[HeadName]
    """The names of the heads whose mask is 0, such as L4H1: those that carry the variable."""
    heads: int
    """How many heads the group has."""
    tied: list[list[HeadName]] = Field(default_factory=list[list[HeadName]])
    """The other sets of as many heads that did as well in validation, the earliest first."""
    gradient: Gradient = "autograd"
    """How the derivatives were taken in training."""
    accuracy: float
    """How often patching the selected heads gives the desideratum's answer: a share of the test examples."""
    accuracy_interval: Interval | None = None
    """The 95% interval of `accuracy`."""
    do_nothing: float
    """How often that answer is given when nothing is patched."""
    do_nothing_interval: Interval | None = None
    """The 95% interval of `do_nothing`."""
    validated: float | None = None
    """The selected heads' share of the validation examples: the best of all masks that were validated."""
    floor: float | None = None
    """The share of the validation examples that give that answer when nothing is patched."""
    floor_interval: Interval | None = None
    """The 95% interval of `floor`."""
    ceiling: float | None = None
    """The share of the validation examples when all heads of the group are patched."""
    ceiling_interval: Interval | None = None
    """The 95% interval of `ceiling`."""
    why: list[Reason] = Field(default_factory=list[Reason])
    """Why the selection is empty or of no use, or what it hangs by."""


class DCMSummary(Summary):
    """Which heads of each group carry which variable."""

    scores: ClassVar = (
        ScoreTensor(
            "{group}.{desideratum}.mask",
            ("heads",),
            "The mask that validation chose: 1 keeps the base run's output, 0 takes the source's.",
            each="rows",
        ),
        ScoreTensor(
            "{group}.{desideratum}.masks",
            ("validation", "heads"),
            "The rounded masks that were tried in validation, the earliest first.",
            each="rows",
        ),
        ScoreTensor(
            "{group}.{desideratum}.accuracies",
            ("validation",),
            "Accuracy of each of them in validation, from 0 to 1.",
            each="rows",
        ),
        ScoreTensor(
            "{group}.{desideratum}.course",
            ("step", "heads"),
            "The mask after every step of its training.",
            each="rows",
            always=False,
        ),
        ScoreTensor(
            "{group}.{desideratum}.gradients",
            ("step", "heads"),
            "By how many logits the mean logit of the target changes with the mask, at every step.",
            each="rows",
            always=False,
        ),
        ScoreTensor(
            "{group}.{desideratum}.ceiling.predicted",
            ("example",),
            "Id of the predicted token in validation when all heads of the group take the source's outputs.",
            each="rows",
            always=False,
        ),
        ScoreTensor(
            "{desideratum}.floor.predicted",
            ("example",),
            "Id of the predicted token in validation when nothing is patched.",
            each="rows",
            always=False,
        ),
        *answers("{desideratum}.", each="rows", always=False),
    )
    rows: list[GroupMask]
    """Per desideratum, a row for every group that has heads, in the circuit's order."""
    circuit: CircuitRecord
    """The circuit whose groups have masks."""

    @model_validator(mode="after")
    def _fits_circuit(self) -> Self:
        sizes = {group.name: len(group.heads) for group in self.circuit.groups}
        if any(sizes.get(row.group) != row.heads for row in self.rows):
            raise ValueError("rows: a group that is not in the circuit, or has another number of heads there")
        return self

    @property
    def gradients(self) -> Set[Gradient]:
        """How the derivatives were taken."""
        return {row.gradient for row in self.rows}
