"""Where interventions run: with a model in memory, shared out to workers, or on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat, tee
from typing import Any

from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.memory import OutOfMemoryBackoff, run_call
from nnsight_et.measuring.model_pool import Key, ModelPool
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.server import Server, check_place
from nnsight_et.workers.pool import LoadSpec, Workers


@dataclass
class Executor:
    """What runs calls, and what it takes to do so."""

    models: ModelPool
    backoff: OutOfMemoryBackoff
    server: Server | None = None
    workers: Workers | None = None
    ahead: dict[Key, tuple[list[Call], Callable[[list[Any]], None]]] = field(default_factory=dict)
    """By model: calls that go to a server with the next ones, and who takes what they find."""

    def results(self, job: Job, choice: ModelChoice, calls: Iterable[Call]) -> Iterator[Any]:
        """What each call finds, one after the other as they are asked for; on a server all are one piece of work.

        ExperimentError where memory runs out, however little goes through the model at once.
        """
        if self.server is not None:
            return self._from_server(self.server, job, choice, calls)
        calls, sent = tee(calls)
        sent = map(partial(self.backoff.limit, choice), sent)
        if self.workers is None:
            # map and partial keep frames off the stack; the model is fetched for each call, as another may come between
            models = (self.models.load(job, choice) for _ in repeat(None))
            attempts = map(run_call, sent, models)
        else:
            place = LoadSpec(self.models.files(choice), choice.dtype, self.models.device, job.attention)
            attempts = self.workers.results(place, run_call, sent)
        return map(partial(self.backoff.accept, job, choice), calls, attempts)

    def look_at(self, job: Job) -> None:
        """Send what is still to go ahead of calls to the job's models: all of its cells were there."""
        for choice in job.models if self.server is not None else ():
            list(self.results(job, choice, ()))

    def _from_server(self, server: Server, job: Job, choice: ModelChoice, calls: Iterable[Call]) -> Iterator[Any]:
        together = list(calls)
        first, take = self.ahead.pop((choice.name, choice.dtype, job.attention), ([], None))
        if not first and not together:
            return
        done = server.results(self.models.load(job, choice), [*first, *together], job.name)
        check_place(done["place"], choice, f"experiments.{job.name}")
        if take is not None:
            take(done["found"][: len(first)])
        yield from done["found"][len(first) :]
