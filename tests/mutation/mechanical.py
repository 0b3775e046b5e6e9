"""The mechanical mutants, each against the tests of its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .coverage import TESTS
from .mutants import Mutant, drawn
from .runner import Bench, Outcome, check_clean, outcomes

COUNT, SEED = 200, 1
EXERCISE, EACH = "gqa", 4
"""What is run with self-checks, and for how many mutants it is once."""
Tried = tuple[Mutant, Outcome, Outcome | None]


def tried(mutants: Sequence[Mutant], workers: int) -> Iterator[Tried]:
    """Each mutant with the first test that fails, if one does, and, for some, what a run with self-checks says.

    RuntimeError if tests or run complain without any mutant.
    """
    files = {name for mutant in mutants for name in TESTS[mutant.file]}
    check_clean(sorted(files), [EXERCISE])
    run = set(exercised(mutants))

    def one(bench: Bench, mutant: Mutant) -> Tried:
        found = bench.exercise(mutant.change, EXERCISE) if mutant in run else None
        return mutant, bench.tests(mutant.change, TESTS[mutant.file]), found

    return outcomes(mutants, one, workers)


def exercised(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Every fourth of those that are not in the checks themselves."""
    return [mutant for mutant in mutants if "_checks" not in mutant.file][::EACH]


def every() -> list[Mutant]:
    """The mutants that are drawn for the table."""
    return drawn(COUNT, SEED)
