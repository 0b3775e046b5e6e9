"""What the summary of completeness says."""

from __future__ import annotations

from typing import ClassVar

from nnsight_et.results.records import CircuitRecord, Interval, Record
from nnsight_et.results.scores import answers, readouts
from nnsight_et.results.summary import Summary


class CompletenessRow(Record):
    """Circuit and model without the same heads. Accuracies are from 0 to 1; intervals are over examples."""

    removed: str
    """What was removed: random 1, random 2, ..., or the name of a group."""
    heads: int
    """How many heads that is."""
    circuit: float
    """Accuracy of the circuit without them."""
    circuit_interval: Interval
    """95% interval of `circuit`."""
    model: float
    """Accuracy of the model without them."""
    model_interval: Interval
    """95% interval of `model`."""
    completeness: float
    """The absolute difference of the two; 0 for a complete circuit."""
    completeness_interval: Interval
    """95% interval of `completeness`."""
    differing: int | None = None
    """On how many prompts one of circuit and model is right and the other is not."""


class Spread(Record):
    """A number over the random halves."""

    mean: float
    """Its mean."""
    std: float
    """Its standard deviation."""


class AccuracySpread(Spread):
    """An accuracy over the random halves."""

    mean_interval: Interval
    """95% interval of the mean over examples."""


class RandomHalves(Record):
    """What removing random halves of the circuit does."""

    model: AccuracySpread
    """Accuracy of the model without them."""
    circuit: AccuracySpread
    """Accuracy of the circuit without them."""
    completeness: Spread
    """The absolute difference of the two."""


class NoHalves(Record):
    """Where no halves were drawn."""


class CompletenessSummary(Summary):
    """What circuit and model lose without the same heads."""

    scores: ClassVar = (
        *readouts("circuit", ("row", "example"), "in the circuit without each row's heads"),
        *readouts("model", ("row", "example"), "in the model without each row's heads"),
        *answers(),
    )
    rows: list[CompletenessRow]
    """A row per random half, then one per group."""
    random: RandomHalves | NoHalves
    """Over all random halves; empty where none was drawn."""
    circuit: CircuitRecord
    """The circuit that was tried."""

    @property
    def halves(self) -> RandomHalves | None:
        """What was found over random halves, if any were drawn."""
        return self.random if isinstance(self.random, RandomHalves) else None
