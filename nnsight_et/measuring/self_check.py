"""Checks inside every run: a sample of what the default engine measured, measured again by the reference engine.

A check that fails stops the experiment before its result is written. In every experiment, what is done to each model
for the first time is checked, on at least four cells in all, a cell being one variant of one example, measured alone;
what is done again, with other examples, desiderata or groups, as often as 3% of the forward passes allow. Then all that
the experiment decided and counted is derived again from what was measured (docs/truth.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nnsight_et.core.errors import ExperimentError
from nnsight_et.interventions.calls import Call
from nnsight_et.planning.plan import Job
from nnsight_et.results.headers import CheckRecord, SelfCheckRecord

VARIANTS, LEAST = 2, 4  # of one recomputed sample; and cells of every experiment
SHARE = 0.03  # of an experiment's forward passes
PER_CELL = 32.0  # what a cell costs: some passes of the reference engine, over one prompt and so far from efficient


@dataclass(frozen=True)
class Check:
    """A check still to be made: what to ask of the model, and of it in fp32, and what to do with what they find."""

    calls: tuple[Call, ...]
    verify: Callable[[list[Any]], None]
    """Given what the calls find: notes the check, or raises ExperimentError."""
    upcast_calls: tuple[Call, ...] = ()


@dataclass
class SelfCheck:
    """What was checked so far of one experiment."""

    on: bool = True
    found: list[CheckRecord] = field(default_factory=list[CheckRecord])
    models: set[tuple[str, str, str]] = field(default_factory=set)
    kinds: set[tuple[str, ...]] = field(default_factory=set)
    samples: int = 0
    allowance: float = 0.0
    seconds: float = 0.0

    @property
    def cells(self) -> int:
        """How many cells were measured again so far."""
        return sum(check.cells or 0 for check in self.found)

    def is_due(self, kind: tuple[str, ...], examples: int, variants: int) -> bool:
        """Whether a step is checked: it is the first of its kind, or there is room for it."""
        self.allowance += SHARE * examples * (2 + variants / 10)
        first = kind not in self.kinds or self.cells < LEAST
        self.kinds.add(kind)
        if not first and self.allowance < PER_CELL * VARIANTS:
            return False
        self.allowance -= PER_CELL * VARIANTS
        return True

    def add(self, job: Job, name: str, worst: float, tolerance: float, **more: Any) -> None:
        """Note a check that has passed; ExperimentError if it has not."""
        if not worst <= tolerance:
            where = f"experiments.{job.name}: self-check '{name}'{''.join(f', {key} {more[key]}' for key in more)}"
            raise ExperimentError(
                f"{where}: found a difference of {worst:.3g}; accepted: at most {tolerance:.3g}; "
                "the experiment's result was not written"
            )
        self.found.append(CheckRecord(check=name, worst=worst, tolerance=tolerance, **more))

    def to_record(self) -> SelfCheckRecord:
        """The same, for the result's header."""
        return SelfCheckRecord(on=self.on, checks=list(self.found), seconds=round(self.seconds, 3))


def calls_of(checks: Sequence[Check], where: str) -> list[Call]:
    """The calls of all the checks, in order, with names of their own."""
    calls = [call for check in checks for call in check.calls]
    return [replace(call, name=f"{where} check {number}") for number, call in enumerate(calls)]
