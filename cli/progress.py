"""Progress of a run, as a live view on a terminal, plain lines elsewhere, JSON for machines, or not at all."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnsight_et.core.errors import quantity

from .run_events import Event, RunInfo, events

if TYPE_CHECKING:
    from nnsight_et.remote.server import Waiting
    from nnsight_et.runner.run import Progress as Step

LINE_EVERY, OBJECT_EVERY = 15.0, 1.0  # seconds
BAR = 30  # columns
View = Literal["auto", "quiet", "json"]


def is_live(console: Console, view: View) -> bool:
    """Whether a run is shown as a live view: on a terminal, and not where CI is set."""
    return view == "auto" and console.is_terminal and not os.environ.get("CI")


@dataclass
class StatusLine:
    """The server's last word or the layer reached, for a live view; in plain lines and JSON each new word is said."""

    view: View
    live: bool
    server: Waiting | None = None
    layer: int | None = None
    """The layer that path patching has come to here."""
    _said: tuple[str, str] = ("", "")

    def hear(self, waiting: Waiting) -> None:
        """Take note of what the server says of a job."""
        self.server = waiting
        word = (waiting.status, waiting.description)
        if self.view == "json" and word != self._said:
            said = {"status": waiting.status, "description": waiting.description, "seconds": round(waiting.seconds, 1)}
            write_object({"event": "waiting", "experiment": waiting.experiment} | said)
        elif self.view == "auto" and not self.live and word[0] != self._said[0]:
            typer.echo(f"{waiting.experiment}: {self.text()}", err=True)
        self._said = word

    def reach(self, layer: int) -> None:
        """Take note of the layer whose senders are patched now."""
        self.layer = layer

    def between(self, steps: Iterable[Any]) -> Iterator[Any]:
        """The steps of a run: with each of them a job, and a piece of work, has ended."""
        for step in steps:
            self.server = self.layer = None
            yield step

    def text(self) -> str:
        """The last word in a line."""
        if self.server is None:
            return "" if self.layer is None else f"senders of layer {self.layer}"
        status, description = self.server.status, self.server.description
        return f"server {status}{f': {description}' if description else ''} ({duration(self.server.seconds)})"


@dataclass
class LineWriter:
    """Lines of a run where there is no live view; no silence between them is longer than LINE_EVERY seconds.

    `write` prints a line. A thread of `watching` calls `beat`, which speaks if nothing else has.
    """

    write: Callable[[str], None]
    status: Callable[[], str] = str
    """The server's last word or the layer reached."""
    clock: Callable[[], float] = time.monotonic
    doing: str = "reading models and data"
    _start: float = field(init=False)
    _written: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self._written = self.clock()

    @property
    def due(self) -> bool:
        """Whether it has been silent for long enough."""
        return self.clock() - self._written >= LINE_EVERY

    def line(self, text: str) -> None:
        """Write a line now."""
        self._written = self.clock()
        self.write(text)

    def begin(self, doing: str) -> None:
        """Take note of what is being done from now on."""
        self.doing, self._start = doing, self.clock()

    def beat(self) -> None:
        """Say what is being done, and for how long, if nothing has been said for LINE_EVERY seconds."""
        if self.due:
            said = [self.doing, *filter(None, (self.status(),))]
            self.line(f"{', '.join(said)}, for {duration(self.clock() - self._start)}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Beat while the block lasts, whatever it waits for."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(LINE_EVERY / 15):
                self.beat()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def follow(
    steps: Iterable[Step],
    console: Console,
    info: RunInfo | None = None,
    view: View = "auto",
    status: Callable[[], str] = str,
    on_result: Callable[[str], None] | None = None,
) -> int:
    """Go through the steps of a run, showing each as it happens; how many cells were measured, not found stored.

    `auto` is a live view on a terminal, and lines in pipes and where CI is set. status: what a live view says below.
    on_result: shows the result of a finished experiment, below its line.
    """
    info, last = info or RunInfo(), None
    shown = events(steps, info if view != "quiet" else RunInfo())
    if is_live(console, view):
        shown = _live(shown, console, info, status)
    elif view == "auto":
        shown = _lines(shown, info, LineWriter(lambda text: _print(console, text), status))
    elif view == "json":
        shown = _objects(shown, info)
    with closing(shown):  # a live view gives the terminal back, whatever stops the run
        for event in shown:
            last = event
            if event.kind == "finished" and on_result is not None:
                on_result(event.experiment)
    return last.computed if last else 0


def _print(console: Console, text: str | Text) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _lines(seen: Iterable[Event], info: RunInfo, writer: LineWriter) -> Generator[Event]:
    """A line for each experiment that starts and ends, and one every LINE_EVERY seconds between."""
    started = ""
    with writer.watching():
        for event in seen:
            if event.kind == "progress":
                text = f"{_title(event.experiment, info)}: {', '.join(_parts(event))}"
                writer.begin(text)
                if writer.due or (event.computed_here and started != event.experiment):
                    started = event.experiment
                    writer.line(text)
            elif event.kind == "finished":
                started = ""
                writer.line(_end(event, info).plain)
                writer.begin(_next(event, info))
            yield event


def _objects(seen: Iterable[Event], info: RunInfo) -> Generator[Event]:
    """A JSON object per line on standard output: each start and end, first and last cell of a step, and the seconds."""
    name, written = None, 0.0
    for event in seen:
        step, now = event.step, time.monotonic()
        due = name != (step.experiment, step.step) or step.done == step.total or now - written >= OBJECT_EVERY
        if event.kind != "progress" or due:
            written = now
            write_object(_plain(event, info))
        name = (step.experiment, step.step) if event.kind == "progress" else None
        yield event


def write_object(plain: dict) -> None:
    """A line of JSON on standard output, at once."""
    print(json.dumps(plain, allow_nan=False), flush=True)


def _plain(event: Event, info: RunInfo) -> dict:
    plain: dict = {"event": event.kind, "experiment": event.experiment}
    if number := info.number(event.experiment):
        plain |= {"number": number[0], "of": number[1]}
    if event.kind == "finished":
        seconds, checks, headline = info.outcome(event.experiment) if info.outcome else (None, None, None)
        plain |= {"computed": event.computed_here, "seconds": seconds, "self_checks": checks, "headline": headline}
    if event.kind == "progress":
        step, left = event.step, event.run_left
        plain |= {"step": step.step, "done": step.done, "total": step.total, "reused": step.reused}
        plain |= {"rate": event.rate, "seconds_left": event.seconds_left, "self_checks": event.checks}
        plain |= {"run_seconds_left": left and left.seconds, "run_seconds_left_is_partial": left and left.partial}
        plain |= {"memory": _resident()}
    return plain


def _live(seen: Iterable[Event], console: Console, info: RunInfo, status: Callable[[], str]) -> Generator[Event]:
    """The experiment, its step as a bar, and memory, while it lasts; a finished experiment leaves a line above."""
    started, shown = time.monotonic(), None

    def view() -> RenderableType:
        said = status()
        if shown is None:
            return Text(said or "reading models and data")
        return Group(_view(shown, info, time.monotonic() - started), *([Text(said)] if said else []))

    # Standard output stays itself: tables go there while the view lasts, and may be kept in a file.
    with Live(get_renderable=view, console=console, refresh_per_second=4, transient=True, redirect_stdout=False):
        for event in seen:
            if event.kind == "progress":
                shown = event
            elif event.kind == "finished":
                _print(console, _end(event, info))
            yield event


def _view(event: Event, info: RunInfo, elapsed: float) -> RenderableType:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(event.step.total, event.step.done, width=BAR), Text(", ".join(_parts(event))))
    state = [f"{event.checks} self-checks passed", *_memory(), f"running for {duration(elapsed)}"]
    return Group(Text(_title(event.experiment, info), style="bold"), bar, Text(", ".join(state), style="dim"))


def _memory() -> Iterator[str]:
    """What the process holds, and what torch has allocated on the GPU if it uses one."""
    yield f"{_resident() / (1 << 30):.1f} GiB of memory"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        yield f"{torch.cuda.memory_allocated() / (1 << 30):.1f} GiB on the GPU"


def _resident() -> int:
    """Bytes that this process holds."""
    import psutil

    return psutil.Process().memory_info().rss


def _title(experiment: str, info: RunInfo) -> str:
    """The experiment, and which of how many it is."""
    number = info.number(experiment)
    return f"[{number[0]}/{number[1]}] {experiment}" if number else experiment


def _next(ended: Event, info: RunInfo) -> str:
    """What begins when an experiment has ended: the next one's first step, which may be long."""
    number = info.number(ended.experiment)
    if number is None or number[0] == number[1]:
        return "working"
    return f"{_title(info.experiments[number[0]], info)}: first step"


def _parts(event: Event) -> Iterator[str]:
    """What there is to say of a step: how far it is, how fast it goes, when it and the run will be done."""
    step = event.step
    yield f"{step.step} {step.done}/{step.total}"
    if step.reused:
        yield f"{step.reused} from the store"
    if event.rate:
        yield f"{event.rate:.2g} measurements/s" if event.rate < 10 else f"{event.rate:.0f} measurements/s"
    if event.seconds_left and event.seconds_left >= LINE_EVERY:  # a shorter one is over before the next line
        yield f"about {duration(event.seconds_left)} left in this step"
    if left := event.run_left:
        yield f"about {duration(left.seconds)} in the run{' plus work not timed yet' if left.partial else ''}"


def _end(event: Event, info: RunInfo) -> Text:
    """What there is to say of a finished experiment: its result in a few words, and what it took."""
    outcome = info.outcome(event.experiment) if info.outcome else None
    text = Text.assemble((f"{_title(event.experiment, info)}: ", "bold"))
    if event.stored:
        text.append("from the store", "dim")
    else:
        text.append(f"done in {duration(outcome.seconds)}" if outcome else "done", "green")
    if outcome and outcome.headline:
        text.append(f"; {outcome.headline}")
    if not event.stored:
        cells = quantity(event.computed_here, "measurement") if event.computed_here else "no new measurements"
        checks = f", {outcome.checks} self-checks passed" if outcome else ""
        text.append(f" ({cells}{checks})", "dim")
    return text


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as many digits as matter."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
