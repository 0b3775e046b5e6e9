"""`et run` on a manifest with every method, in processes that are stopped at random moments until one ends by itself.

Each run is forked from a process that has imported everything: a start takes the time of the run alone.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

from nnsight_et.results import disk
from nnsight_et.results.store import Store, read_result
from tests.helpers.commands import EVERY, STUDY

MANIFEST = STUDY.replace("boxes: 3", "boxes: 2, objects: [book, car, paper, letter]") + EVERY
"""For the models of methods_study."""
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["nnsight_et_cli", "nnsight_et.runner.run", "nnsight_et.report.html"])
POLL = 0.002  # seconds
GONE = 2**22 + 1  # no process has this number: more are not given out
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""The exit code of a run that a signal stops."""
OF_THE_PROCESS = ("seconds", "self_check", "digest")
"""What of a result's header is of the process that finished it: how long it took, and what it checked on its way."""


def command(folder: Path, said: Path, server: tuple[str, str], *arguments: str) -> None:
    """`et` in this process, with what it says in two files of a folder; `server`: an address and a key, if any."""
    import nnsight_et_cli
    from nnsight.schema.config import CONFIG

    os.chdir(folder)
    if any(server):
        CONFIG.API.HOST, CONFIG.API.APIKEY = server
    sys.stdout = (said / "stdout").open("w")
    sys.stderr = (said / "stderr").open("w")
    gc.freeze()  # what was imported is no garbage to look at
    nnsight_et_cli.app(list(arguments))


def started(folder: Path, out: Path, said: Path | None = None, server: tuple[str, str] = ("", "")) -> BaseProcess:
    """A run that is going."""
    words = ("run", "study.yaml", "--out", str(out))
    process = FORKS.Process(target=command, args=(folder, said or folder, server, *words), daemon=True)
    process.start()
    return process


def finished(out: Path) -> dict[Path, tuple[int, int]]:
    """Every cell, and every file of a result: which file on the disk it is, and when it was written."""
    files = (*out.glob("store/*/*.safetensors"), *out.glob("small/*/*/scores.safetensors"))
    found = {}
    for path in (*files, *out.glob("small/*/*/result.json")):
        if not any(part.startswith(disk.TEMPORARY) for part in path.parts):
            status = path.stat()
            found[path] = status.st_ino, status.st_mtime_ns
    return found


def contents(out: Path) -> dict[str, Any]:
    """Every file of a run but its report and its locks, by its path: a result's header without what is of a process."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in ("report.html", disk.LOCK):
            found[str(path.relative_to(out))] = _header(path) if path.name == "result.json" else path.read_bytes()
    return found


def _header(path: Path) -> dict[str, Any]:
    header = json.loads(path.read_bytes())
    return {key: value for key, value in header.items() if key not in OF_THE_PROCESS}


def check_whole(out: Path) -> None:
    """Every cell and result that is there can be read, whatever stopped the run."""
    for path in finished(out):
        if path.name == "result.json":
            assert read_result(path.parent)
        elif path.name != "scores.safetensors":
            assert Store(out).cell(path.stem) is not None, path


@dataclass
class Stops:
    """Runs into folders of their own, and what became of them."""

    folder: Path
    """Where the manifest is."""
    random: Random
    calm: dict[str, Any] = field(default_factory=dict)
    pieces: int = 0
    """How many files a run writes, and so how many moments there are to choose from."""
    seconds: float = 0.0
    """How long it takes."""
    runs: int = 0

    def whole(self, out: Path) -> None:
        """A run to its end."""
        process = started(self.folder, out)
        process.join()
        assert process.exitcode == 0, (self.folder / "stderr").read_text()

    def measure(self) -> None:
        """What an uninterrupted run leaves."""
        start = time.monotonic()
        self.whole(self.folder / "calm")
        self.seconds = time.monotonic() - start
        self.calm, self.pieces = contents(self.folder / "calm"), len(finished(self.folder / "calm"))

    def stopped(self, out: Path, how: signal.Signals, after: int) -> int | None:
        """The exit code of a run that gets the signal a moment after it has written so many files; its own, if it was
        done before that. One that is to say something gets none before it has begun."""
        process = started(self.folder, out)
        while process.is_alive() and len(finished(out)) < after:
            time.sleep(POLL)
        while process.is_alive() and how != signal.SIGKILL and holder(out) != process.pid:
            time.sleep(POLL)
        time.sleep(self.random.random() * self.seconds / self.pieces)
        os.kill(process.pid or 0, how)  # one that has ended is there until it is joined
        process.join()
        return process.exitcode

    def run(self, signals: Sequence[signal.Signals]) -> int:
        """One run stopped by the signals, one after the other, and continued to the end of a calm one; how many of them
        found it going."""
        self.runs, tried = self.runs + 1, 0
        out = self.folder / f"stopped{self.runs}"
        before: dict[Path, tuple[int, int]] = {}
        for how, after in zip(signals, sorted(self.random.choices(range(self.pieces), k=len(signals))), strict=True):
            code = self.stopped(out, how, after)
            if len(finished(out)) == self.pieces:
                break  # it was done, or nearly
            assert code == CODES[how], (self.folder / "stderr").read_text()
            tried += 1
            check_whole(out)
            before = self.unchanged(before, out)
            if how != signal.SIGKILL:
                check_told(self.folder / "stderr", out)
        self.whole(out)
        self.unchanged(before, out)
        assert contents(out) == self.calm
        assert not list(out.rglob(f"{disk.TEMPORARY}*"))
        return tried

    def until(self, signals: Sequence[signal.Signals], each: int) -> None:
        """Runs until each of the signals has found one going, `each` of them to a run at most."""
        left = list(signals)
        while left:
            del left[: self.run(left[:each])]

    def unchanged(self, before: dict[Path, tuple[int, int]], out: Path) -> dict[Path, tuple[int, int]]:
        """What is finished now; nothing that was finished before has been written again."""
        now = finished(out)
        assert before.items() <= now.items()
        return now


def holder(out: Path) -> int | None:
    """The number of the process that has the run's folder, or had it when it was killed."""
    for path in out.glob(f"small/*/{disk.HOLDER}"):
        with suppress(FileNotFoundError):
            return json.loads(path.read_bytes())["pid"]
    return None


def check_told(stderr: Path, out: Path) -> None:
    """A run that could say so has said what is saved, and left nothing half-written."""
    said = stderr.read_text()
    assert "Finished work is saved: " in said
    assert f"{len(list(out.glob('small/*/*/result.json')))} experiment" in said
    assert "Traceback" not in said
    assert not list(out.rglob(f"{disk.TEMPORARY}*"))
