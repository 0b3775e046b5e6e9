"""The live view of a run: the experiment, its step as a bar, rate and time left, self-checks, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import Course, Moment, duration, finished_line, parts, titled

BAR = 30  # columns


def watched(seen: Iterable[Moment], console: Console, course: Course) -> Generator[Moment]:
    """The moments, each shown while it lasts; a finished experiment leaves a line above."""
    started, shown = time.monotonic(), None

    def view() -> RenderableType:
        heard = course.waiting() if course.waiting else ""
        if shown is None:
            return Text(heard or "reading models and data")
        return Group(_view(shown, course, time.monotonic() - started), *([Text(heard)] if heard else []))

    with Live(get_renderable=view, console=console, refresh_per_second=4, transient=True):
        for moment in seen:
            if moment.kind == "progress":
                shown = moment
            elif moment.kind == "finished":
                line = finished_line(moment, course)
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            yield moment


def _view(moment: Moment, course: Course, elapsed: float) -> RenderableType:
    step = moment.step
    bar = Table.grid(padding=(0, 1))
    place, *rest = parts(moment)
    bar.add_row(ProgressBar(step.total, step.done, width=BAR), Text(f"{place}, {', '.join(rest)}" if rest else place))
    state = [f"{moment.checks} self-checks passed", *memory(), f"running for {duration(elapsed)}"]
    return Group(Text(titled(moment, course), style="bold"), bar, Text(", ".join(state), style="dim"))


def memory() -> Iterator[str]:
    """What the process holds, and what torch has allocated on the GPU if it uses one."""
    yield f"{_gib(psutil.Process().memory_info().rss)} of memory"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        yield f"{_gib(torch.cuda.memory_allocated())} on the GPU"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
