from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator

from rich.console import Console

from nnsight_et.run import Progress

progress = importlib.import_module("nnsight_et_cli.progress")


def steps() -> Iterator[Progress]:
    for done in (1, 2, 3):
        yield Progress("found", "stage", done, 3, reused=min(done, 2))
    for _ in range(2):  # two series of one name
        for done in (1, 2):
            yield Progress("table", "model", done, 2, reused=0)


def followed(terminal: bool) -> tuple[int, str]:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    computed = progress.follow(steps(), console)
    assert isinstance(console.file, io.StringIO)
    return computed, console.file.getvalue()


def test_what_was_computed_is_counted_and_what_was_stored_is_not():
    assert followed(terminal=False)[0] == followed(terminal=True)[0] == 1 + 2 + 2


def test_lines_tell_the_start_and_the_end_of_each_series():
    lines = followed(terminal=False)[1].splitlines()
    assert lines[0] == "found: stage 1/3, 1 from the store"
    assert lines[1] == "found: stage 3/3, 2 from the store"
    assert [line.split(",")[0] for line in lines[2:]] == ["table: model 1/2", "table: model 2/2"] * 2


def test_bars_end_full():
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", followed(terminal=True)[1])
    assert "found: stage" in shown
    assert "3/3" in shown


def test_time_left_is_told_from_the_second_computed_step_on(monkeypatch):
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []
    progress._lines((Progress("a", "b", done, 4, 0) for done in (1, 2, 3, 4)), lines.append)
    assert [("left" in line) for line in lines] == [False, True, True, False]
