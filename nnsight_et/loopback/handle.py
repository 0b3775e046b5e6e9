"""Starting, watching and stopping the server from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from nnsight_et.core.errors import ExperimentError, NnsightEtError

KEY, KEYS = "--key=", "LOOPBACK_KEYS"  # others may see a process's arguments, but not its environment
PROGRAM = Path(__file__).with_name("serve.py")
NEEDED = ("multipart", "starlette", "uvicorn", "websockets")
_OPENER = build_opener(ProxyHandler({}))  # this machine needs no proxy


@dataclass
class Loopback:
    """A server in a process of its own, running from `start` to `stop`, or for a `with` block."""

    folder: Path
    models: Mapping[str, Path]
    options: Sequence[str] = field(repr=False)  # keys are among them
    patience: float = 120.0  # seconds until it must be up
    address: str = ""
    process: subprocess.Popen | None = field(default=None, repr=False)
    before: dict[str, Any] = field(default_factory=dict, repr=False)  # counts until it was restarted

    @classmethod
    def start(
        cls, folder: Path, models: Mapping[str, Path], *, keys: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Self:
        """A server that is up. `models`: folders by the names clients use, adapters too; `keys`: KEY or KEY:untrusted;
        `options`: further ones of serve.py. ExperimentError when it does not come up, with what it wrote."""
        server = cls(Path(folder), dict(models), [*(f"--key={key}" for key in keys), *options])
        server.up()
        return server

    def up(self, *more: str, wait: bool = True) -> None:
        """Start the process and wait until it answers, and unless told otherwise until jobs can run."""
        missing = [package for package in NEEDED if find_spec(package) is None]
        if missing:
            raise NnsightEtError(f"a server of its own needs {', '.join(missing)}: pip install 'nnsight-et[simulate]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / "address"
        place.unlink(missing_ok=True)
        fixed = ["--folder", str(self.folder), "--until-input-ends"]
        models = [f"--model={name}={path}" for name, path in self.models.items()]
        others = [option for option in self.options if not option.startswith(KEY)]
        keys = " ".join(option.removeprefix(KEY) for option in self.options if option.startswith(KEY))
        command = [sys.executable, str(PROGRAM), *fixed, *models, *others, *more]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | {KEYS: keys}
            )
        self._until(place.exists)
        self.address = place.read_text().strip()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until jobs can run."""
        self._until(lambda: self._ask("GET", "/loopback/counts")["connected"])

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

    def down(self) -> None:
        """Kill it: connections to its address are refused until `back`."""
        self.before = self.counts()
        self.stop(kill=True)

    def back(self, keep: bool, wait: bool = True) -> None:
        """Start it again on the same address, with the jobs it had or without; `wait` as in `up`."""
        self.up(f"--port={self.address.rpartition(':')[2]}", *(["--keep"] if keep else []), wait=wait)

    def restart(self, keep: bool, wait: bool = True) -> None:
        """Kill it and start it again, with the jobs it had or without."""
        self.down()
        self.back(keep, wait)

    def fault(self, where: str, what: str, **how: Any) -> None:
        """Have something go wrong (faults.KINDS): from the `nth` time on, `times` times."""
        self._ask("POST", "/loopback/faults", [{"where": where, "what": what, **how}])

    def faults(self) -> list[dict[str, Any]]:
        """The rules given, each with how often it `fired`."""
        return self._ask("GET", "/loopback/faults")

    def clear(self) -> None:
        """Have nothing go wrong any more."""
        self._ask("DELETE", "/loopback/faults")

    def counts(self) -> dict[str, Any]:
        """Since the start, restarts included: jobs `accepted`, `requests` by endpoint, `polls` and `downloads` by job;
        and for each of the `jobs` the request's `bytes`, those of the `result`, its `runs`, whether it has `ended`."""
        now = self._ask("GET", "/loopback/counts")
        for name, value in self.before.items():
            if name == "connected":
                continue
            if name == "accepted":
                now[name] += value
            elif name == "jobs":
                now[name] = value | now[name]
            else:
                now[name] = {key: now[name].get(key, 0) + value.get(key, 0) for key in {**value, **now[name]}}
        return now

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        try:
            with _OPENER.open(Request(self.address + path, content, method=method), timeout=30) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise ValueError(json.load(error)["detail"]) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
