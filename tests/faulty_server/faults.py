"""Faults on demand, counted and in the order asked for.

A rule says where (an endpoint, or "job"), what, from the how-manieth time on (`nth`, counted from when the rule was
given) and how many times (`times`; 0: for ever). `KINDS` has every kind; the fields of `Rule` are what they take.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from texts import REFUSAL

ANSWERS = {
    "drop": "close the connection: of a request, before it is read; of any other answer, in its middle",
    "status": "answer with `code`, `detail` (or NDIF's text by `name`) and Retry-After: `retry_after` if given",
    "delay": "answer after `seconds`",
    "slow": "answer with `bytes_per_second`",
    "skew": "a Date header that is `seconds` off",
}
KINDS: dict[str, dict[str, str]] = {
    "request": {**ANSWERS, "drop_after": "accept the job, then close the connection without an answer"},
    "response": {**ANSWERS, "stuck": "QUEUED, whatever the job's status is", "unknown": "no such job (404)"},
    "download": {
        **ANSWERS,
        "expired": "the URL has expired (403)",
        "truncated": "the first half of the result, as if that were all",
        "corrupted": "the result with some bytes changed",
    },
    "status": ANSWERS,
    "subscribe": {
        "status": "refuse the session with `code`",
        "drop": "close the connection after `frames` messages",
        "duplicate": "COMPLETED twice",
    },
    "job": {
        "queued": "stay in the queue for `seconds`",
        "running": "run for `seconds` longer",
        "limit": "a time limit of `seconds`",
        "error": "end with NDIF's text by `name`, or `detail`",
        "evicted": "lose the model while running: back into the queue, the model loaded again, then run",
        "lost": "forget the job",
    },
}


class UnknownFault(Exception):
    """A rule that cannot be: what was given, and what is accepted."""


@dataclass
class Rule:
    """One fault."""

    where: str
    what: str
    nth: int = 1
    times: int = 1
    code: int = 503
    name: str = ""
    detail: str = ""
    retry_after: str | float | None = None
    seconds: float = 0.0
    bytes_per_second: float = 1000.0
    frames: int = 1
    seen: int = 0
    fired: int = 0

    @classmethod
    def of(cls, given: dict[str, Any]) -> Rule:
        """A rule as it was sent; UnknownFault."""
        known = {field.name for field in fields(cls)} - {"seen", "fired"}
        if not {"where", "what"} <= set(given) <= known:
            raise UnknownFault(f"{given}: accepted are where, what and {', '.join(sorted(known - {'where', 'what'}))}")
        if given["what"] not in KINDS.get(given["where"], {}):
            listed = "; ".join(f"{where}: {', '.join(kinds)}" for where, kinds in KINDS.items())
            raise UnknownFault(f"no fault '{given['what']}' at '{given['where']}'; accepted: {listed}")
        return cls(**given)

    def due(self) -> bool:
        """Whether it fires now; called once for every event at its place."""
        self.seen += 1
        fires = self.seen >= self.nth and (not self.times or self.seen < self.nth + self.times)
        self.fired += fires
        return fires

    def refusal(self) -> tuple[int, str]:
        """Code and text of an HTTP error."""
        return REFUSAL[self.name] if self.name else (self.code, self.detail)


class Faults:
    """The rules of a server."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def due(self, where: str) -> Rule | None:
        """The first rule that fires for this event."""
        firing = [rule for rule in self.rules if rule.where == where and rule.due()]
        return firing[0] if firing else None
