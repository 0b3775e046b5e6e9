from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterable, Iterator
from functools import partial

import pytest
from nnsight_et_cli import progress, run_events
from rich.console import Console

from nnsight_et.diagnostics.costs import expected_seconds
from nnsight_et.runner.run import Progress

INFO = run_events.RunInfo(("found", "table", "last"), lambda name: run_events.Outcome(12.3, 7, f"all of {name}"))


def steps() -> Iterator[Progress]:
    for done in (1, 2, 3):
        yield Progress("found", "stage", done, 3, reused=min(done, 2), checks=done)
    yield Progress("found", "stage", 1, 1, reused=0, checks=3, finished=True)
    for _ in range(2):  # two series of one name
        for done in (1, 2):
            yield Progress("table", "model", done, 2, reused=0, checks=5)
    yield Progress("table", "model", 1, 1, reused=0, checks=5, finished=True)
    yield Progress("last", "knockout", 1, 1, reused=1, finished=True)


def events(steps: Iterable[Progress], info=None) -> Iterator:
    return run_events.events(steps, info or run_events.RunInfo())


def followed(terminal: bool, **options) -> tuple[int, str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    computed = progress.follow(steps(), console, INFO, **options)
    assert isinstance(console.file, io.StringIO)
    return computed, console.file.getvalue()


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def clock(monkeypatch) -> None:
    """Each look at the clock is 10 seconds after the one before."""
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(run_events.time, "monotonic", lambda: float(next(times)))


def test_the_layer_that_path_patching_has_come_to_is_said_until_the_piece_of_work_is_done():
    status, said = progress.StatusLine("auto", live=True), []

    def working() -> Iterator[Progress]:
        for done, layer in ((1, 4), (2, None)):
            if layer is not None:
                status.reach(layer)
            said.append(status.text())
            yield Progress("found", "stage", done, 2, reused=0)

    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress.follow(status.between(working()), console, status=status.text)
    assert said == ["senders of layer 4", ""]


def test_what_was_computed_is_counted_and_what_was_stored_is_not():
    for options in ({}, {"view": "quiet"}, {"view": "json"}):
        assert followed(terminal=False, **options)[0] == 1 + 2 + 2
    assert followed(terminal=True)[0] == 1 + 2 + 2


def test_lines_tell_the_start_and_the_end_of_each_experiment():
    lines = followed(terminal=False)[1].splitlines()
    assert [re.sub(r", \d+ measurements/s", "", line) for line in lines] == [
        "[1/3] found: stage 3/3, 2 from the store",
        "[1/3] found: done in 12 s; all of found (1 measurement, 7 self-checks passed)",
        "[2/3] table: model 1/2",
        "[2/3] table: done in 12 s; all of table (4 measurements, 7 self-checks passed)",
        "[3/3] last: from the store; all of last",
    ]


def test_only_a_result_that_was_there_is_from_the_store():
    def remade() -> Iterator[Progress]:
        yield Progress("found", "stage", 1, 1, reused=1)  # every cell is stored, and the result is not
        yield Progress("found", "stage", 0, 0, reused=0, finished=True)
        yield Progress("last", "comparison", 1, 1, reused=1, finished=True)

    console = Console(file=io.StringIO(), width=120)
    progress.follow(remade(), console, INFO)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue()
    assert "found: done in 12 s; all of found (no new measurements, 7 self-checks passed)" in lines
    assert "last: from the store; all of last" in lines


def test_between_them_a_line_comes_every_fifteen_seconds_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_events.time, "monotonic", lambda: now[0])

    def slow() -> Iterator[Progress]:
        for done in range(1, 51):
            now[0] += 1
            yield Progress("long", "stage", done, 50, 0)
        yield Progress("long", "stage", 1, 1, 0, finished=True)

    lines: list[str] = []
    writer = progress.LineWriter(lines.append, clock=lambda: now[0])
    for _ in progress._lines(events(slow()), run_events.RunInfo(), writer):
        pass
    assert [line.split(",")[0] for line in lines] == [
        "long: stage 1/50",
        "long: stage 16/50",
        "long: stage 31/50",
        "long: stage 46/50",
        "long: done (50 measurements)",
    ]  # fmt: skip
    assert lines[1] == "long: stage 16/50, 1 measurements/s, about 34 s left in this step"
    assert lines[3] == "long: stage 46/50, 1 measurements/s"  # 4 s, over before there is another line


def test_a_silence_ends_after_fifteen_seconds_with_what_is_done_and_for_how_long():
    now, lines, layer = [0.0], list[str](), progress.StatusLine("auto", live=False)
    writer = progress.LineWriter(lines.append, layer.text, lambda: now[0])
    for second in range(70):
        now[0] = float(second)
        if second == 20:
            writer.begin("found: stage 1/9")
            layer.reach(5)
        writer.beat()
    assert lines == [
        "reading models and data, for 15 s",
        "found: stage 1/9, senders of layer 5, for 10 s",
        "found: stage 1/9, senders of layer 5, for 25 s",
        "found: stage 1/9, senders of layer 5, for 40 s",
    ]


def test_the_silence_of_a_step_that_waits_is_ended_from_outside_it(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    spoken, lines = threading.Event(), list[str]()

    def write(text: str) -> None:
        lines.append(text)
        spoken.set()

    def waiting() -> Iterator[Progress]:
        assert spoken.wait(30)
        yield Progress("found", "stage", 1, 1, 0, finished=True)

    writer = progress.LineWriter(write)
    for _ in progress._lines(events(waiting()), run_events.RunInfo(), writer):
        pass
    assert lines[0].startswith("reading models and data, for ")


def test_a_long_first_step_is_told_under_the_name_of_its_experiment():
    """DCM trains its masks before the first of its cells is there."""
    now, lines = [0.0], list[str]()
    writer = progress.LineWriter(lines.append, clock=lambda: now[0])

    def slow() -> Iterator[Progress]:
        yield Progress("circuit", "stage", 1, 1, 0, finished=True)
        now[0] += 30
        writer.beat()

    info = run_events.RunInfo(experiments=("circuit", "masks"))
    for _ in progress._lines(events(slow()), info, writer):
        pass
    assert lines[-1] == "[2/2] masks: first step, for 30 s"


def test_an_experiment_ends_when_its_result_is_written_and_is_shown_then():
    order = list[str]()

    def told() -> Iterator[Progress]:
        for step in steps():
            order.append(f"{step.experiment} {'written' if step.finished else 'measured'}")
            yield step

    console = Console(file=io.StringIO(), width=120)
    progress.follow(told(), console, INFO, on_result=lambda name: order.append(f"{name} shown"))
    for name, after in (("found", "table measured"), ("table", "last written")):
        assert order.index(f"{name} shown") == order.index(f"{name} written") + 1 < order.index(after)
    assert order[-1] == "last shown"


def test_rate_and_time_left_are_of_the_cells_that_were_measured(clock):
    def some() -> Iterator[Progress]:
        yield Progress("a", "b", 1, 6, 1)
        yield Progress("a", "b", 2, 6, 2)
        yield Progress("a", "b", 3, 6, 2)  # 20 s after the first cell, which was stored: one cell measured
        yield Progress("a", "b", 4, 6, 2)

    found = [one for one in events(some()) if one.kind == "progress"]
    assert [one.rate for one in found] == [None, None, pytest.approx(1 / 20), pytest.approx(2 / 30)]
    assert [one.seconds_left for one in found] == [None, None, pytest.approx(60), pytest.approx(30)]


def test_the_cell_that_starts_the_clock_is_not_counted(clock):
    found = [one for one in events(Progress("a", "b", done, 4, 0) for done in (1, 2, 3)) if one.rate]
    assert [one.rate for one in found] == [pytest.approx(1 / 10), pytest.approx(2 / 20)]


def timed(*names: str) -> list:
    """Experiments of three cells, 10 s a cell; a and b are of one method, b twice as large, c of another."""
    work = {"a": ("path_patching", 10.0), "b": ("path_patching", 20.0), "c": ("dcm", 10.0)}
    info = run_events.RunInfo(names, lambda name: run_events.Outcome(30.0, 0, ""), partial(expected_seconds, work))
    steps = [Progress(name, "step", done, 3, 0, finished=done > 3) for name in names for done in (1, 2, 3, 4)]
    return [one for one in events(steps, info) if one.kind == "progress"]


def test_the_time_left_of_a_run_is_told_from_experiments_of_the_same_method(clock):
    found = [(one.run_left.seconds, one.run_left.partial) if one.run_left else None for one in timed("a", "b")]
    assert found[:3] == [None, None, None]  # no experiment is timed yet
    assert found[3] == (60.0, False)  # a took 30 s, b is twice as large
    assert found[4] == (50.0, False)
    assert found[5] == (40.0, False)


def test_methods_not_measured_yet_are_not_in_it_and_it_says_so(clock):
    found = timed("a", "c", "b")
    assert found[3].run_left == run_events.TimeLeft(60.0, partial=True)
    assert list(progress._parts(found[3]))[-1] == "about 60 s in the run plus work not timed yet"
    assert list(progress._parts(found[-2]))[-1] == "about 50 s in the run"


def test_an_experiment_from_the_store_tells_nothing_of_its_method(clock):
    work = {"a": ("dcm", 1.0), "b": ("dcm", 1.0)}
    info = run_events.RunInfo(("a", "b"), lambda name: run_events.Outcome(30.0, 0, ""), partial(expected_seconds, work))
    steps = [Progress("a", "dcm", 1, 1, 1, finished=True), Progress("b", "step", 1, 3, 0)]
    assert [one.run_left for one in events(steps, info) if one.kind == "progress"] == [None, None]


def test_self_checks_of_all_experiments_are_added_up():
    found = list(events(steps()))
    assert [one.checks for one in found if one.kind == "finished"] == [3, 8, 8]


def test_a_terminal_gets_a_bar_and_a_line_per_finished_experiment():
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", followed(terminal=True)[1])
    assert "[1/3] found: done in 12 s; all of found (1 measurement, 7 self-checks passed)" in shown
    assert "[3/3] last: from the store" in shown


def test_the_live_view_tells_experiment_step_rate_checks_and_memory(clock):
    event = [one for one in events(steps()) if one.kind == "progress"][2]
    console = Console(file=io.StringIO(), width=120)
    console.print(progress._view(event, INFO, 75.0))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for part in ("[1/3] found", "stage 3/3", "2 from the store", "measurements/s", "3 self-checks passed", "75 s"):
        assert part in shown
    assert re.search(r"\d\.\d GiB of memory", shown)


def test_where_ci_is_set_a_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("CI", "true")
    assert "\x1b" not in followed(terminal=True)[1]


def test_quiet_shows_nothing(capsys):
    assert followed(terminal=True, view="quiet")[1] == ""
    assert capsys.readouterr().out == ""


def test_json_is_an_object_per_line(capsys):
    assert followed(terminal=False, view="json")[1] == ""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["experiment"]) for one in found if one["event"] != "progress"] == [
        (event, name) for name in ("found", "table", "last") for event in ("started", "finished")
    ]
    assert found[1].pop("memory") > 1 << 20
    assert found[1] | {"rate": None} == {
        "event": "progress", "experiment": "found", "number": 1, "of": 3, "step": "stage", "done": 1, "total": 3,
        "reused": 1, "rate": None, "seconds_left": None, "self_checks": 1,
        "run_seconds_left": None, "run_seconds_left_is_partial": None,
    }  # fmt: skip
    finished = next(one for one in found if one["event"] == "finished")
    assert [finished[key] for key in ("computed", "seconds", "self_checks", "headline")] == [1, 12.3, 7, "all of found"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.6, "9.6 s"), (45.4, "45 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str):
    assert progress.duration(seconds) == text
