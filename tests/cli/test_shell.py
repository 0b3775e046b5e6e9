"""What the shell sees when a run is stopped."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from nnsight_et_cli import execute, progress, shell
from rich.console import Console

from nnsight_et.manifest import load
from nnsight_et.runner.run import Progress
from tests.helpers.commands import ROOT


def test_the_message_counts_what_is_saved_and_says_how_to_go_on(tmp_path: Path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").touch()
    (tmp_path / ".writing-three").mkdir()
    with pytest.raises(typer.Exit) as stopped, shell.interruptible(tmp_path):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    printed = capsys.readouterr().err
    assert (
        f"saved: 2 experiments, and what was measured of others, in {tmp_path}. The same command continues" in printed
    )


class Finalised:
    """The signal comes while this is being destroyed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def lost(number: int) -> None:
    Finalised(number)
    time.sleep(10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_inside_a_finaliser_stops_the_command_without_a_traceback(tmp_path, capsys, number, code):
    with pytest.raises(typer.Exit) as stopped, shell.interruptible(tmp_path):
        lost(number)
    assert stopped.value.exit_code == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["find_finished", "_run", "write_page", "show_path"])
def test_a_command_that_is_stopped_says_so_from_its_start_to_its_end(tmp_path, monkeypatch, capsys, moment):
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    for name in ("_run", "write_page", "show_path"):
        monkeypatch.setattr(execute, name, lambda *_: None)
    monkeypatch.setattr(execute, moment, stop)
    with pytest.raises(typer.Exit) as stopped:
        execute.execute(load(ROOT / "experiments.yaml"), execute.RunTarget(tmp_path))
    assert stopped.value.exit_code == 143
    assert "Terminated. Finished work is saved: 0 experiments" in capsys.readouterr().err


def test_what_else_a_finaliser_raises_is_still_printed(tmp_path, monkeypatch):
    class Broken:
        def __del__(self) -> None:
            raise ValueError

    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(what.exc_type))
    with shell.interruptible(tmp_path):
        Broken()
    assert printed == [ValueError]


def test_a_live_view_that_is_stopped_gives_the_cursor_back(monkeypatch):
    def interrupted() -> Iterator[Progress]:
        yield Progress("found", "stage", 1, 3, 0)
        raise KeyboardInterrupt

    monkeypatch.delenv("CI", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with pytest.raises(KeyboardInterrupt):
        progress.follow(interrupted(), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_the_place_an_error_is_about_is_red_and_the_rest_is_as_it_was():
    placed = shell._placed("study.yaml:8: a.model: no model named 'x'")
    assert placed == f"{typer.style('study.yaml:8: ', fg='red')}a.model: no model named 'x'"
    assert shell._placed("no place here") == "no place here"
