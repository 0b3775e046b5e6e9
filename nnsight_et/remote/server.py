"""Jobs on a server, from calls to what they find; in smaller ones where one is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.parts import split_call
from nnsight_et.models.load import check_gap
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.remote.failures import TooLarge
from nnsight_et.remote.job import Connection, RemoteJob, RetryPolicy, Waiting, say_nothing


@dataclass(frozen=True)
class Remote:
    """How a run uses a server: who is told what it waits for, how long it does; and which, if not nnsight's own."""

    on_wait: Callable[[Waiting], None] = say_nothing
    patience: RetryPolicy = field(default_factory=RetryPolicy)
    host: str | None = None
    key: str | None = field(default=None, repr=False)


class Server(Connection):
    """A connection that sends calls in as few jobs as can be."""

    def results(self, model: Model, calls: Sequence[Call], experiment: str) -> dict[str, Any]:
        """{"found": what each call finds, "place": what run_calls says of the model}, from as few jobs as can be.

        RemoteFailure, with the server's words, if that cannot be had; what was sent is then found again by the next
        run.
        """
        try:
            return RemoteJob(self, model, calls, experiment).outcome()
        except TooLarge as failure:
            self.on_wait(Waiting(experiment, "SMALLER", str(failure), 0.0))
            found = self._split(model, calls, experiment, failure)
            if found is None:
                raise
            return found

    def _split(self, model: Model, calls: Sequence[Call], experiment: str, failure: TooLarge) -> dict[str, Any] | None:
        """The same from smaller jobs; None if there are none: two halves of the calls, or one call with less at once,
        or, where it took too long, in parts."""
        if len(calls) > 1:
            middle = len(calls) // 2
            halves = [self.results(model, some, experiment) for some in (calls[:middle], calls[middle:])]
            return {"found": [one for half in halves for one in half["found"]], "place": halves[0]["place"]}
        if not failure.too_long:
            less = calls[0].with_half_chunks()
            return None if less is None else self.results(model, [less], experiment)
        places = []

        def run(call: Call) -> Any:
            done = self.results(model, [call], experiment)
            places.append(done["place"])
            return done["found"][0]

        found = split_call(calls[0], run)
        return None if found is None else {"found": [found], "place": places[0]}


def check_place(place: dict[str, Any], choice: ModelChoice, where: str) -> None:
    """Raise UnsupportedModel unless the model on the server has the dtype that was asked for, and its parts add up."""
    if place["dtype"] != choice.dtype:
        found = f"{choice.name} runs in {place['dtype']} on the server, and the manifest says {choice.dtype}"
        raise UnsupportedModel(f"{where}: {found}; accepted: dtype: {place['dtype']}")
    check_gap(place["gap"].item(), getattr(torch, choice.dtype), f"{where}: {choice.name}")
