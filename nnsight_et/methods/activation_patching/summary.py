"""What results of activation patching say."""

from __future__ import annotations

from nnsight_et.results.summary import CircuitRecord, Interval, Record, Summary


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

    rows: list[PatchedGroup]
    """Per model and desideratum, a row for every group that heads were selected from."""
    circuit: CircuitRecord
    """The circuit that the heads were selected from."""
