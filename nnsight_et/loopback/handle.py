"""Starting, watching and stopping the server from Python."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from nnsight_et.errors import ExperimentError, NnsightEtError

PROGRAM = Path(__file__).with_name("serve.py")
NEEDED = ("multipart", "starlette", "uvicorn", "websockets")


@dataclass
class Loopback:
    """A server in a process of its own, running from `start` to `stop`, or for a `with` block."""

    folder: Path
    options: list[str]
    patience: float = 120.0  # seconds until it must be up
    address: str = ""
    process: subprocess.Popen | None = field(default=None, repr=False)

    @classmethod
    def start(
        cls, folder: Path, models: Mapping[str, Path], *, keys: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Self:
        """A server that is up. `models`: folders by the names clients use, adapters too; `keys`: KEY or KEY:untrusted;
        `options`: further ones of serve.py. ExperimentError when it does not come up, with what it wrote."""
        given = [f"--model={name}={path}" for name, path in models.items()]
        server = cls(Path(folder), [*given, *(f"--key={key}" for key in keys), *options])
        server.up()
        return server

    def up(self, *more: str) -> None:
        """Start the process and wait until it answers."""
        missing = [package for package in NEEDED if find_spec(package) is None]
        if missing:
            raise NnsightEtError(f"a server of its own needs {', '.join(missing)}: pip install 'nnsight-et[simulate]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "address"
        place.unlink(missing_ok=True)
        fixed = ["--folder", str(self.folder), "--until-input-ends"]
        command = [sys.executable, str(PROGRAM), *fixed, *self.options, *more]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        until = time.monotonic() + self.patience
        while not place.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                said = (self.folder / "server.log").read_text()[-2000:]
                raise ExperimentError(f"the loopback server in {self.folder} did not start: {said}")
            time.sleep(0.02)
        self.address = place.read_text().strip()

    def stop(self, kill: bool = False) -> None:
        """Stop the process, at once if `kill`; nothing of it remains."""
        if self.process is None:
            return
        self.process.kill() if kill else self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None

    def restart(self, keep: bool) -> None:
        """Kill it and start it on the same address; with its jobs kept or forgotten."""
        port = self.address.rpartition(":")[2]
        self.stop(kill=True)
        self.up(f"--port={port}", *(["--keep"] if keep else []))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
