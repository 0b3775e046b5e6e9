"""Results beside the truth: per method, what was expected and what was found. The truth comes from Known alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nnsight_et.methods import METHODS
from nnsight_et.results.headers import method_of
from nnsight_et.results.store import Result
from nnsight_et.truth.study import Trial


@dataclass(frozen=True)
class TruthCheck:
    """A statement of truth about a model, and what one method on one engine found."""

    model: str
    seed: int
    engine: str
    method: str
    what: str
    expected: str
    found: str
    right: bool
    numbers: Mapping[str, float] = field(default_factory=dict)
    demanded: bool = True
    """Whether it has to be right."""


def checks(trial: Trial, results: Mapping[str, Result]) -> list[TruthCheck]:
    """Every statement of truth about the trial's model beside what its results say."""
    return [
        TruthCheck(trial.known.name, trial.seed, trial.engine, method_of(result.header), *found, trial.known.demanded)
        for name, result in results.items()
        for method in (METHODS[method_of(result.header)],)
        for found in method.experiment().statements(trial.known, name, result.read(method.summary))
    ]
