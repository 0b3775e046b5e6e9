"""Changes to a copy of the package, and what happens there; the tree itself is never touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
LIMIT = 240  # seconds: what takes longer hangs, and is caught
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Change:
    """Another text for one file, named as seen from the project's root."""

    file: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """How a change was caught ("": it was not), by which check or test, and what was said."""

    caught: str
    by: str
    detail: str


NOTHING = Outcome("", "", "")


class Bench:
    """A copy of the project, and a process that runs it."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / "copy"
        shutil.copytree(ROOT, self.copy, ignore=LEFT_OUT)
        settings = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings, cwd=folder
        )

    def exercise(self, change: Change | None, name: str) -> Outcome:
        """Whether a run of the exercise with its self-checks notices the change."""
        return self._outcome(change, {"exercise": name})

    def tests(self, change: Change | None, tests: Sequence[str], limit: int = LIMIT) -> Outcome:
        """Whether one of these tests fails; they run in their order, up to the first that does."""
        return self._outcome(change, {"tests": [f"tests/{name}" for name in tests], "limit": limit})

    def close(self) -> None:
        """End the process."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def _outcome(self, change: Change | None, job: dict[str, Any]) -> Outcome:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        whole = {"limit": LIMIT} | job | {"copy": str(self.copy), "log": str(self.copy.with_name("log"))}
        with self._changed(change):
            self.process.stdin.write(json.dumps(whole) + "\n")
            self.process.stdin.flush()
            found = Outcome(**json.loads(self.process.stdout.readline()))
        if found.caught == "broken":
            raise RuntimeError(f"the suite itself failed: {found.by}: {found.detail}")
        return found

    @contextmanager
    def _changed(self, change: Change | None) -> Iterator[None]:
        if change is None:
            yield
            return
        path = self.copy / change.file
        before = path.read_text()
        try:
            self._write(path, change.text)
            yield
        finally:
            self._write(path, before)

    def _write(self, path: Path, text: str) -> None:
        """Byte code goes too: a file of the same size, written in the same second, would pass for it."""
        path.write_text(text)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()


def outcomes(items: Iterable[Item], found: Callable[[Bench, Item], Found], workers: int) -> Iterator[Found]:
    """What `found` makes of each item on a bench, in their order, several at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        benches: Queue[Bench] = Queue()
        for number in range(workers):
            place = Path(folder) / str(number)
            place.mkdir()
            benches.put(Bench(place))

        def on_a_bench(item: Item) -> Found:
            bench = benches.get()
            try:
                return found(bench, item)
            finally:
                benches.put(bench)

        yield from pool.map(on_a_bench, items)
        while not benches.empty():
            benches.get().close()


def check_clean(tests: Sequence[str], exercises: Sequence[str] = (), limit: int = LIMIT) -> None:
    """Raise RuntimeError unless the copy as it is passes these tests and exercises."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        found = [bench.tests(None, tests, limit)] if tests else []
        found += [bench.exercise(None, name) for name in exercises]
        bench.close()
    for outcome in found:
        if outcome != NOTHING:
            raise RuntimeError(f"without any fault: {outcome}")
