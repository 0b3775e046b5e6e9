"""The loopback server with keys, sessions, untrusted jobs and faults, for tests: its program is in faulty_server/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.error import HTTPError
from urllib.request import Request

from nnsight_et.loopback import Loopback, handle
from nnsight_et.loopback.handle import OPENER

PROGRAM = Path(__file__).parents[1] / "faulty_server" / "serve_faults.py"


@dataclass
class FaultyLoopback(Loopback):
    """A server in a process of its own that does wrong what it is told to."""

    keys: Sequence[str] = field(default=(), repr=False)
    options: Sequence[str] = ()
    before: dict[str, Any] = field(default_factory=dict, repr=False)  # counts until it was restarted
    program: ClassVar[Path] = PROGRAM

    @classmethod
    def start(
        cls, folder: Path, models: Mapping[str, Path], *, keys: Sequence[str] = (), options: Sequence[str] = ()
    ) -> Self:
        """A server that is up. `keys`: KEY or KEY:untrusted; `options`: further ones of serve_faults.py."""
        server = cls(Path(folder), dict(models), keys=keys, options=options)
        server.up()
        return server

    def up(self, *options: str, wait: bool = True, **environment: str) -> None:
        """Start the process; keys are in its environment, as others may see its arguments."""
        code = str(Path(handle.__file__).parent)
        more = {"PYTHONPATH": code, "LOOPBACK_KEYS": " ".join(self.keys)}
        super().up(*self.options, *options, wait=wait, **more, **environment)

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
            with OPENER.open(Request(self.address + path, content, method=method), timeout=30) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise ValueError(json.load(error)["detail"]) from None
