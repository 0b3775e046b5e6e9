"""What results of CMAP say."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from nnsight_et.results.records import CircuitRecord, Interval, Record
from nnsight_et.results.scores import answers, readouts
from nnsight_et.results.summary import Summary


class PatchedRecipient(Record):
    """The recipient with some of the donor's activations."""

    patched: str
    """Which activations are the donor's: output, query, key, value, or query+key+value, that is all three inputs."""
    group: str
    """The head group whose heads are patched; all: every group."""
    heads: int
    """How many heads are patched."""
    accuracy: float
    """The recipient's accuracy: a share of the examples."""
    accuracy_interval: Interval | None = None
    """The 95% interval of `accuracy`."""


class RandomHeads(Record):
    """The recipient with the donor's outputs of random heads: as many per set as the circuit has, in several sets."""

    mean: float
    """The mean over sets of the recipient's accuracy."""
    std: float
    """The population standard deviation of these accuracies over the sets."""
    mean_interval: Interval | None = None
    """The 95% interval of `mean`, over examples."""


class CMAPSummary(Summary):
    """How well the recipient answers with activations of the donor."""

    scores: ClassVar = (
        *readouts(
            "output", ("set", "example"), "with the outputs of each group, of all, then of each set of random heads"
        ),
        *readouts(
            "{group}.input",
            ("kind", "example"),
            "with queries, keys, values, then all three of the group",
            each="rows",
            always=False,
        ),
        *answers(),
    )
    donor: str
    """The name of the model that gives activations."""
    recipient: str
    """The name of the model that takes them."""
    models: dict[str, float]
    """Model -> its accuracy alone: a share of the examples."""
    model_intervals: dict[str, Interval] = Field(default_factory=dict)
    """Model -> the 95% interval of that accuracy."""
    rows: list[PatchedRecipient]
    """The outputs of each group and of all, then, where asked for, the inputs of each group."""
    random: RandomHeads | None
    """The control: random heads; null where there are no sets of them."""
    circuit: CircuitRecord
    """The heads that are patched."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not {self.donor, self.recipient} <= set(self.models):
            raise ValueError(f"models: no accuracy of {self.donor} or {self.recipient}")
        inputs = {(row.group, row.patched) for row in self.rows if row.patched != "output"}
        groups, kinds = ({pair[part] for pair in inputs} for part in (0, 1))
        if len(inputs) < len(groups) * len(kinds):
            raise ValueError("rows: not the same inputs of every group")
        return self
