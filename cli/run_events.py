"""What happens in a run: experiments start, make progress and end; how fast, and how long the run may still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from nnsight_et.runner.run import Progress as Step


class Outcome(NamedTuple):
    """What came of a finished experiment."""

    seconds: float
    checks: int
    """How many self-checks have passed."""
    headline: str
    """Its result in a few words."""


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run besides its steps."""

    experiments: tuple[str, ...] = ()
    """Those that are to run, in order."""
    outcome: Callable[[str], Outcome] | None = None
    """A finished experiment -> what came of it."""
    expected_seconds: Callable[[Mapping[str, float]], Mapping[str, float]] = field(default=lambda took: {})
    """How many seconds measured experiments took -> the same of those whose time they tell."""

    def number(self, experiment: str) -> tuple[int, int] | None:
        """Which of how many experiments it is, counted from 1."""
        if experiment not in self.experiments:
            return None
        return self.experiments.index(experiment) + 1, len(self.experiments)


@dataclass(frozen=True)
class TimeLeft:
    """About how many seconds until a run is done; `partial`: without experiments of methods not measured yet."""

    seconds: float
    partial: bool


@dataclass(frozen=True)
class Event:
    """An experiment of a run has started or finished, or one more cell of its step is done."""

    kind: Literal["started", "progress", "finished"]
    step: Step
    computed: int
    """Cells of the run so far that were measured and not found in the store."""
    computed_here: int
    """The same of this experiment."""
    checks: int
    """Self-checks of the run that have passed so far."""
    rate: float | None = None
    """Cells per second in this step; None before there is one."""
    run_left: TimeLeft | None = None
    """How long the whole run may still take; None where nothing is known of it."""
    stored: bool = False
    """Whether the finished experiment's result was there already."""

    @property
    def experiment(self) -> str:
        """Its experiment's name."""
        return self.step.experiment

    @property
    def seconds_left(self) -> float | None:
        """Until this step is done, at its rate; how many steps an experiment has is not known before."""
        return (self.step.total - self.step.done) / self.rate if self.rate else None


def events(steps: Iterable[Step], info: RunInfo) -> Generator[Event]:
    """The steps of a run, with where each experiment starts and ends, and how fast it goes."""
    clock, last, computed, earlier, checks, earlier_checks = _Clock(info), None, 0, 0, 0, 0
    for step in steps:
        begins = last is None or step.experiment != last.experiment
        if begins:
            earlier, earlier_checks = computed, checks
            yield Event("started", step, computed, 0, checks)
        checks = max(checks, earlier_checks + step.checks)
        if begins or not step.finished:
            last, now = step, time.monotonic()
            computed += clock.count(step, now)
            event = Event("progress", step, computed, computed - earlier, checks, clock.rate(now))
            yield replace(event, run_left=clock.run_left(event, now))
        if step.finished and last is not None:
            clock.finish(step.experiment)
            yield Event("finished", last, computed, computed - earlier, checks, stored=step.reused > 0)


@dataclass
class _Clock:
    """How fast a step goes, how long measured experiments took, and what that tells of the rest."""

    info: RunInfo
    took: dict[str, float] = field(default_factory=dict)
    """Measured experiment -> its seconds."""
    done: set[str] = field(default_factory=set)
    last: Step | None = None
    measured: int = 0
    """Cells of the current series of steps of one name that were measured; two series may have the same name."""
    first: int = 0
    """How many of them before the clock started: the cell that starts it is not timed."""
    series_start: float = 0.0
    start: float = 0.0
    """When the current experiment's first cell was done."""
    reused: bool = False
    """Whether some of the current experiment came from the store."""

    def finish(self, experiment: str) -> None:
        """The experiment is done; it tells of its method unless some of it came from the store."""
        self.done.add(experiment)
        if self.info.outcome and not self.reused:
            self.took[experiment] = self.info.outcome(experiment).seconds

    def count(self, step: Step, now: float) -> int:
        """How many cells more than before are measured at this step."""
        last, self.last = self.last, step
        if last is None or last.experiment != step.experiment:
            self.start, self.reused = now, False
        self.reused = self.reused or bool(step.reused)
        measured = step.done - step.reused
        if last is None or (last.experiment, last.step) != (step.experiment, step.step) or step.done <= last.done:
            self.measured, self.first, self.series_start = 0, measured, now
        more, self.measured = measured - self.measured, measured
        return more

    def rate(self, now: float) -> float | None:
        """Cells per second of this step; None before two were measured."""
        timed, elapsed = self.measured - self.first, now - self.series_start
        return timed / elapsed if timed and elapsed else None

    def run_left(self, event: Event, now: float) -> TimeLeft | None:
        """What is left of the run; None where no experiment tells of the current one nor of a later one."""
        expected = self.info.expected_seconds(self.took) if self.took else {}
        others = [name for name in self.info.experiments if name not in self.done and name != event.experiment]
        known, whole = [expected[name] for name in others if name in expected], expected.get(event.experiment)
        if whole is None and not known:
            return None
        own = max((whole or 0.0) - (now - self.start), event.seconds_left or 0.0)
        return TimeLeft(sum(known) + own, partial=whole is None or len(known) < len(others))
