"""What the shell sees when a run is stopped."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console

from nnsight_et.run import Progress

progress = importlib.import_module("nnsight_et_cli.progress")
shell = importlib.import_module("nnsight_et_cli.shell")


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
