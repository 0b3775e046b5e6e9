"""Starting, watching and stopping the server from Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from nnsight_et.core.errors import ExperimentError, NnsightEtError

NEEDED = ("multipart", "starlette", "uvicorn")
OPENER = build_opener(ProxyHandler({}))  # this machine needs no proxy


@dataclass
class Loopback:
    """A server in a process of its own, running from `start` to `stop`, or for a `with` block."""

    folder: Path
    models: Mapping[str, Path]
    patience: float = 120.0  # seconds until it must be up
    address: str = ""
    process: subprocess.Popen | None = field(default=None, repr=False)
    program: ClassVar[Path] = Path(__file__).with_name("serve.py")

    @classmethod
    def start(cls, folder: Path, models: Mapping[str, Path]) -> Self:
        """A server that is up. `models`: folders by the names clients use, adapters too. ExperimentError when it does
        not come up, with what it wrote."""
        server = cls(Path(folder), dict(models))
        server.up()
        return server

    def up(self, *options: str, wait: bool = True, **environment: str) -> None:
        """Start the process and wait until it answers, and unless told otherwise until jobs can run."""
        missing = [package for package in NEEDED if find_spec(package) is None]
        if missing:
            raise NnsightEtError(f"a server of its own needs {', '.join(missing)}: pip install 'nnsight-et[simulate]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "address"
        place.unlink(missing_ok=True)
        models = [f"--model={name}={path}" for name, path in self.models.items()]
        command = [sys.executable, str(self.program), "--folder", str(self.folder), *models, *options]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | environment
            )
        self._until(place.exists)
        self.address = place.read_text().strip()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until jobs can run."""
        self._until(self._is_connected)

    def _is_connected(self) -> bool:
        try:
            with OPENER.open(f"{self.address}/connected", timeout=30):
                return True
        except HTTPError:
            return False

    def _until(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + self.patience
        while not reached():
            if self.process is None or self.process.poll() is not None or time.monotonic() > until:
                self.stop(kill=True)
                said = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                raise ExperimentError(f"the loopback server in {self.folder} did not start: {said}")
            time.sleep(0.02)

    def stop(self, kill: bool = False) -> None:
        """Stop the process, at once if `kill`; nothing of it remains."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        self.process.stdin.close()
        if kill:
            self.process.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
