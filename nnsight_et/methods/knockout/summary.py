"""What results of attention knockout say."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from nnsight_et.results.records import Interval, Record
from nnsight_et.results.scores import answers, readouts
from nnsight_et.results.summary import Summary


class BlockedEdge(Record):
    """One position that may not attend to another, by the first layer where it may not."""

    blind: str
    """The named position that does not see."""
    to: str
    """The named position that it does not see; random: an earlier token, drawn for each example."""
    accuracy: list[float]
    """[first layer]: the model's accuracy when that layer and all above it are blocked; last, when none is."""
    accuracy_interval: list[Interval] | None = None
    """[first layer]: the 95% intervals of `accuracy`."""

    @model_validator(mode="after")
    def _has_every_interval(self) -> Self:
        if self.accuracy_interval is not None and len(self.accuracy_interval) != len(self.accuracy):
            raise ValueError("accuracy_interval: not as many as accuracies")
        return self


class KnockoutSummary(Summary):
    """From which layer on a position has what it needs from another."""

    scores: ClassVar = (
        *readouts(
            "{blind} to {to}", ("first layer", "example"), "when that layer and all above are blocked", each="rows"
        ),
        *answers(),
    )
    rows: list[BlockedEdge]
    """A row per edge, in the manifest's order."""
    model: str
    """The model's name."""
    layers: list[int] | None = None
    """The first layers that were tried, apart from none; absent: every one."""

    @model_validator(mode="after")
    def _has_every_layer(self) -> Self:
        lengths = [len(row.accuracy) for row in self.rows] + ([] if self.layers is None else [len(self.layers) + 1])
        if len(set(lengths)) > 1:
            raise ValueError("rows: not of one number of layers")
        return self

    @property
    def first_layers(self) -> list[int]:
        """The first blocked layer of each accuracy but the last, with which none is blocked."""
        count = len(self.rows[0].accuracy) - 1 if self.rows else 0
        return list(range(count)) if self.layers is None else self.layers
