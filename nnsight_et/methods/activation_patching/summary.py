"""What results of activation patching say."""

from __future__ import annotations

from typing import ClassVar

from nnsight_et.results.records import CircuitRecord, Interval, Record
from nnsight_et.results.scores import ScoreTensor
from nnsight_et.results.summary import Summary


class PatchedGroup(Record):
    """The heads of one group that were selected for one desideratum, patched in one model."""

    model: str
    """The model's name."""
    group: str
    """The head group's name."""
    desideratum: str
    """The desideratum's name."""
    heads: int
    """How many of the group's heads were patched."""
    mean: float
    """How often the desideratum's answer is given: a share of the examples, its mean over draws of them."""
    std: float
    """The population standard deviation of that share over the draws."""
    mean_interval: Interval | None = None
    """The 95% interval of `mean`, over the examples of all draws together."""
    do_nothing: float
    """How often the answer is given when nothing is patched: the mean over draws."""
    do_nothing_interval: Interval | None = None
    """The 95% interval of `do_nothing`."""
    draws: int
    """How many draws of fresh examples there were."""


class ActivationPatchingSummary(Summary):
    """Whether each group's heads do in every model what they were selected for."""

    scores: ClassVar = (
        ScoreTensor(
            "{model}.{desideratum}.accuracy",
            ("set", "draw"),
            "How often the desideratum's answer is given, from 0 to 1, with each row's heads patched; last, with none.",
            each="rows",
        ),
    )
    rows: list[PatchedGroup]
    """Per model and desideratum, a row for every group that heads were selected from."""
    circuit: CircuitRecord
    """The circuit that the heads were selected from."""
