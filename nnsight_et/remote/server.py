"""Jobs on a server, from calls to what they find; in smaller ones where one is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnsight_et.interventions.calls import Call
from nnsight_et.models.model import Model
from nnsight_et.remote.client import Client
from nnsight_et.remote.failures import Smaller
from nnsight_et.remote.job import Job, Patience, Waiting
from nnsight_et.remote.journal import Journal


def say_nothing(_: Waiting) -> None:
    """Nobody is told what a run waits for."""


@dataclass(frozen=True)
class Remote:
    """How a run uses a server: who is told what it waits for, how long it does; and which, if not nnsight's own."""

    on_wait: Callable[[Waiting], None] = say_nothing
    patience: Patience = field(default_factory=Patience)
    host: str | None = None
    key: str | None = field(default=None, repr=False)


@dataclass
class Server:
    """An NDIF server, and the journal of the jobs it was given."""

    client: Client
    journal: Journal
    on_wait: Callable[[Waiting], None] = say_nothing
    patience: Patience = field(default_factory=Patience)

    def results(self, model: Model, calls: Sequence[Call], experiment: str) -> dict[str, Any]:
        """{"found": what each call finds, "place": what carried_out says of the model}, from as few jobs as can be.

        RemoteFailure, with the server's words, if that cannot be had; what was sent is then found again by the next
        run.
        """
        try:
            return Job(self, model, calls, experiment).outcome()
        except Smaller as failure:
            pieces = smaller(calls)
            if pieces is None:
                raise
            self.on_wait(Waiting(experiment, "SMALLER", str(failure), 0.0))
            parts = [self.results(model, piece, experiment) for piece in pieces]
            return {"found": [one for part in parts for one in part["found"]], "place": parts[0]["place"]}


def smaller(calls: Sequence[Call]) -> list[Sequence[Call]] | None:
    """Two halves of the calls; of a single one the same with half as much at once; None if it is the least already."""
    if len(calls) > 1:
        middle = len(calls) // 2
        return [calls[:middle], calls[middle:]]
    halved = calls[0].halved()
    return None if halved is None else [[halved]]
