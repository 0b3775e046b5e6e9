"""The seeded faults, each against the run-time self-check of a run that exercises it, and against the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .faults import Fault
from .runner import LIMIT, Bench, Outcome, check_clean, outcomes

AT_RUN_TIME = ("self-check", "load check", "refusal")
"""What a user's own run says of a fault: a check of the engine, of the loaded model, or of a step that cannot be."""


@dataclass(frozen=True)
class Tried:
    """A fault, and how it was caught: by a run with self-checks, and by the tests."""

    fault: Fault
    run: Outcome
    tests: Outcome


def tried(faults: Sequence[Fault], workers: int, limit: int = LIMIT) -> Iterator[Tried]:
    """Each fault with what the self-check and the tests make of it; RuntimeError if either complains without it."""
    tests = {name for fault in faults for name in fault.tests}
    check_clean(sorted(tests), sorted({fault.exercise for fault in faults}), limit)

    def one(bench: Bench, fault: Fault) -> Tried:
        run = bench.exercise(fault.change, fault.exercise)
        return Tried(fault, run, bench.tests(fault.change, fault.tests, limit))

    return outcomes(faults, one, workers)
