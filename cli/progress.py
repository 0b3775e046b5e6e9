"""Progress of a run, as a live view on a terminal, plain lines elsewhere, JSON for machines, or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from .left import Clock, Left

if TYPE_CHECKING:
    from nnsight_et.runner.run import Progress as Step

LINE_EVERY, OBJECT_EVERY = 30.0, 1.0  # seconds
View = Literal["auto", "quiet", "json"]


@dataclass(frozen=True)
class Course:
    """What is known of a run besides its steps."""

    experiments: tuple[str, ...] = ()
    """Those that are to run, in order."""
    made: Callable[[str], tuple[float, int]] | None = None
    """A finished experiment -> how many seconds it took, and how many self-checks have passed."""
    sizes: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Experiment -> its method and size."""
    waiting: Callable[[], str] | None = None
    """What a server last said of the job that is waited for, or the layer reached; nothing where there is none."""

    def number(self, experiment: str) -> tuple[int, int] | None:
        """Which of how many experiments it is, counted from 1."""
        if experiment not in self.experiments:
            return None
        return self.experiments.index(experiment) + 1, len(self.experiments)


@dataclass(frozen=True)
class Moment:
    """A run at one moment: an experiment has started or finished, or one more cell of its step is done."""

    kind: Literal["started", "progress", "finished"]
    experiment: str
    step: Step
    computed: int
    """Cells of the run so far that were measured and not found in the store."""
    of_experiment: int
    """The same of this experiment."""
    rate: float | None
    """Cells per second in this step; None before there is one."""
    checks: int
    """Self-checks of the run that have passed so far."""
    run_left: Left | None = None
    """How long the whole run may still take; None where nothing is known of it."""

    @property
    def seconds_left(self) -> float | None:
        """Until this step is done, at its rate; how many steps an experiment has is not known before."""
        return _step_left(self.step, self.rate) if self.kind == "progress" else None


@dataclass
class _Series:
    """The steps of one name, one after the other: two series may have the same name."""

    name: tuple[str, str]
    started: float
    first: int
    """How many cells were measured before the clock started."""
    computed: int = 0
    done: int = 0
    reused: int = 0

    def rate(self, now: float) -> float | None:
        """Cells per second since the clock started."""
        measured, elapsed = self.computed - self.first, now - self.started
        return measured / elapsed if measured and elapsed else None


def _step_left(step: Step, rate: float | None) -> float | None:
    return (step.total - step.done) / rate if rate else None


def moments(steps: Iterable[Step], course: Course | None = None) -> Generator[Moment]:
    """The steps of a run, with where each experiment starts and ends, and how fast it goes."""
    series, last, computed, of_experiment, checks, earlier_checks = None, None, 0, 0, 0, 0
    course = course or Course()
    clock = Clock(course.experiments, course.sizes, course.made)
    for step in steps:
        if last is None or step.experiment != last.experiment:
            if last is not None:
                clock.finished(last.experiment)
                yield Moment("finished", last.experiment, last, computed, of_experiment, None, checks)
            of_experiment, earlier_checks = 0, checks
            yield Moment("started", step.experiment, step, computed, 0, None, checks)
        now, name = time.monotonic(), (step.experiment, step.step)
        if series is None or series.name != name or step.done <= series.done:
            series = _Series(name, now, first=step.done - step.reused)
        more = step.done - series.done - (step.reused - series.reused)
        series.done, series.reused, series.computed = step.done, step.reused, series.computed + more
        computed, of_experiment, last = computed + more, of_experiment + more, step
        checks = max(checks, earlier_checks + step.checks)
        rate = series.rate(now)
        left = clock.left(step, now, _step_left(step, rate))
        yield Moment("progress", step.experiment, step, computed, of_experiment, rate, checks, left)
    if last is not None:
        yield Moment("finished", last.experiment, last, computed, of_experiment, None, checks)


def is_live(console: Console, view: View) -> bool:
    """Whether a run is shown as a live view: on a terminal, and not where CI is set."""
    return view == "auto" and console.is_terminal and not os.environ.get("CI")


def follow(steps: Iterable[Step], console: Console, course: Course | None = None, view: View = "auto") -> int:
    """Go through the steps of a run, showing each as it happens; how many cells were measured, not found stored.

    `auto` is a live view on a terminal, and lines in pipes and where CI is set.
    """
    course, last = course or Course(), None
    if is_live(console, view):
        from .live import watched

        watching = watched(moments(steps, course), console, course)
    elif view == "auto":
        watching = _lines(
            moments(steps, course),
            course,
            lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
        )
    else:
        watching = _objects(moments(steps, course), course) if view == "json" else moments(steps)
    with closing(watching):  # a live view gives the terminal back, whatever stops the run
        for moment in watching:
            last = moment
    return last.computed if last else 0


def _lines(seen: Iterable[Moment], course: Course, write: Callable[[str], None]) -> Generator[Moment]:
    """A line for each experiment that starts and ends, and at most one every LINE_EVERY seconds between."""
    started, written = "", time.monotonic()
    for moment in seen:
        now = time.monotonic()
        begins = moment.kind == "progress" and moment.of_experiment and started != moment.experiment
        if begins or (moment.kind == "progress" and now - written >= LINE_EVERY):
            started, written = moment.experiment, now
            write(f"{titled(moment, course)}: {', '.join(parts(moment))}")
        elif moment.kind == "finished":
            started, written = "", now
            write(finished_line(moment, course))
        yield moment


def _objects(seen: Iterable[Moment], course: Course) -> Generator[Moment]:
    """A JSON object per line on standard output: each start and end, first and last cell of a step, and the seconds."""
    name, written = None, 0.0
    for moment in seen:
        step, now = moment.step, time.monotonic()
        due = name != (step.experiment, step.step) or step.done == step.total or now - written >= OBJECT_EVERY
        if moment.kind != "progress" or due:
            written = now
            write_object(_plain(moment, course))
        name = (step.experiment, step.step) if moment.kind == "progress" else None
        yield moment


def write_object(plain: dict) -> None:
    """A line of JSON on standard output, at once."""
    print(json.dumps(plain, allow_nan=False), flush=True)


def _plain(moment: Moment, course: Course) -> dict:
    number = course.number(moment.experiment)
    plain: dict = {"event": moment.kind, "experiment": moment.experiment}
    plain |= {"number": number[0], "of": number[1]} if number else {}
    if moment.kind == "finished":
        seconds, checks = course.made(moment.experiment) if course.made else (None, None)
        return plain | {"computed": moment.of_experiment, "seconds": seconds, "self_checks": checks}
    if moment.kind == "progress":
        step = moment.step
        plain |= {"step": step.step, "done": step.done, "total": step.total, "reused": step.reused}
        plain |= {"rate": moment.rate, "seconds_left": moment.seconds_left, "self_checks": moment.checks}
        plain |= {"run_seconds_left": moment.run_left and moment.run_left.seconds}
        plain |= {"run_seconds_left_is_partial": moment.run_left and moment.run_left.partial}
        plain |= {"memory": memory()}
    return plain


def memory() -> int:
    """Bytes that this process holds."""
    import psutil

    return psutil.Process().memory_info().rss


def titled(moment: Moment, course: Course) -> str:
    """The experiment, and which of how many it is."""
    number = course.number(moment.experiment)
    return f"[{number[0]}/{number[1]}] {moment.experiment}" if number else moment.experiment


def parts(moment: Moment) -> Iterator[str]:
    """What there is to say of a step: how far it is, how fast it goes, when it and the run will be done."""
    step = moment.step
    yield f"{step.step} {step.done}/{step.total}"
    if step.reused:
        yield f"{step.reused} from the store"
    if moment.rate:
        yield f"{moment.rate:.2g} cells/s" if moment.rate < 10 else f"{moment.rate:.0f} cells/s"
    if moment.seconds_left:
        yield f"about {duration(moment.seconds_left)} left in this step"
    if left := moment.run_left:
        yield f"about {duration(left.seconds)} in the run{' and more not timed yet' if left.partial else ''}"


def finished_line(moment: Moment, course: Course) -> str:
    """What there is to say of a finished experiment."""
    if not moment.of_experiment:
        return f"{titled(moment, course)}: from the store"
    said = [f"{moment.of_experiment} cell{'s' * (moment.of_experiment != 1)}"]
    if course.made:
        seconds, checks = course.made(moment.experiment)
        said = [f"in {duration(seconds)}", *said, f"{checks} self-checks passed"]
    return f"{titled(moment, course)}: done, {', '.join(said)}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as many digits as matter."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
