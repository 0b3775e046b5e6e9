"""Progress of a run: bars with the time left on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from nnsight_et.run import Progress as Step

LINE_EVERY = 10.0  # seconds


@dataclass
class Series:
    """The steps of one name, one after the other: two series may have the same name."""

    name: tuple[str, str]
    started: float
    done: int = 0
    reused: int = 0

    @property
    def title(self) -> str:
        """Experiment and step."""
        return ": ".join(self.name)


def follow(steps: Iterable[Step], console: Console) -> int:
    """Go through the steps of a run, showing each as it happens; how many pieces of work were computed, not reused."""
    if console.is_terminal:
        return _bars(steps, console)
    return _lines(steps, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))


def _advanced(series: Series | None, step: Step) -> tuple[Series, int]:
    """The series the step belongs to, and how many pieces of work it computed."""
    name = (step.experiment, step.step)
    if series is None or series.name != name or step.done <= series.done:
        series = Series(name, time.monotonic())
    computed = step.done - series.done - (step.reused - series.reused)
    series.done, series.reused = step.done, step.reused
    return series, computed


def _bars(steps: Iterable[Step], console: Console) -> int:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[reused]}", style="dim"),
    )
    series, shown, task, total = None, None, None, 0
    with Progress(*columns, console=console) as bars:
        for step in steps:
            series, computed = _advanced(series, step)
            total += computed
            if task is None or series is not shown:
                shown, task = series, bars.add_task(series.title, total=step.total, reused="")
            bars.update(task, completed=step.done, total=step.total, reused=_reused(step))
    return total


def _lines(steps: Iterable[Step], write: Callable[[str], None]) -> int:
    series, shown, written, total = None, None, 0.0, 0
    for step in steps:
        series, computed = _advanced(series, step)
        total += computed
        now = time.monotonic()
        if series is not shown or step.done == step.total or now - written >= LINE_EVERY:
            shown, written = series, now
            parts = [f"{series.title} {step.done}/{step.total}", _reused(step), _left(step, now - series.started)]
            write(", ".join(part for part in parts if part))
    return total


def _reused(step: Step) -> str:
    return f"{step.reused} from the store" if step.reused else ""


def _left(step: Step, elapsed: float) -> str:
    computed = step.done - step.reused - 1  # a series' clock starts when its first step is done
    if step.done == step.total or computed < 1:
        return ""
    return f"about {elapsed / computed * (step.total - step.done):.0f} s left"
