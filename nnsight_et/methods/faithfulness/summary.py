"""What the summary of faithfulness says."""

from __future__ import annotations

from typing import ClassVar

from nnsight_et.results.records import CircuitRecord, Interval, Record
from nnsight_et.results.scores import answers, readouts
from nnsight_et.results.summary import Summary


class FaithfulnessRow(Record):
    """A model's line of Table 1. Accuracies are from 0 to 1; intervals are over examples."""

    model: str
    """The model's name."""
    full: float
    """Accuracy of the whole model."""
    full_interval: Interval
    """Interval of `full`."""
    circuit: float
    """Accuracy of the circuit alone, all other heads ablated."""
    circuit_interval: Interval
    """Interval of `circuit`."""
    random_mean: float | None
    """Mean accuracy of random circuits of its size; null where none was drawn."""
    random_std: float | None
    """Standard deviation over the random circuits."""
    random_interval: Interval
    """Interval of `random_mean`."""
    random_circuits: int
    """How many random circuits were drawn."""
    random_p: float | None
    """(1 + random circuits at least as accurate as the circuit) / (1 + random circuits)."""
    faithfulness: float | None
    """circuit / full; null where the model answers nothing right."""
    faithfulness_interval: Interval
    """Interval of `faithfulness`."""
    differing: int | None = None
    """On how many prompts one of circuit and model is right and the other is not."""
    examples: int
    """How many prompts were answered."""


class FaithfulnessSummary(Summary):
    """What the circuit alone can do, model by model."""

    scores: ClassVar = (
        *readouts("{model}.model", ("example",), "in the whole model", each="rows"),
        *readouts("{model}.circuit", ("set", "example"), "in the circuit alone, then in each random one", each="rows"),
        *answers("{model}.", each="rows"),
    )
    rows: list[FaithfulnessRow]
    """A row per model."""
    circuit: CircuitRecord
    """The circuit that was tried."""
