"""One job on a server: journaled, sent, waited for, fetched; sent again only when the server cannot have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from nnsight.schema.response import ResponseModel, Status

from nnsight_et.core.errors import ExperimentError
from nnsight_et.interventions.calls import Call
from nnsight_et.models.model import Model
from nnsight_et.remote.client import Client
from nnsight_et.remote.failures import JobLost, Rejected, Retryable, ServerSilent, TooLarge, failure_from_description
from nnsight_et.remote.journal import Journal, JournalEntry
from nnsight_et.remote.request import pack, unpack


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for what, in seconds, and how often to try."""

    first: float = 0.2  # between two questions after a job, at first
    most: float = 5.0  # and in the end
    growth: float = 1.3
    unsure: float = 10.0  # until a job that may have arrived, and of which the server says nothing, is sent again
    lost: float = 60.0  # until a job that did arrive, and of which the server says nothing, counts as forgotten
    silence: float = 1800.0  # without any answer of the server, until the run stops
    tries: int = 5  # of a job that fails for reasons that may pass


@dataclass(frozen=True)
class Waiting:
    """A job that is not done yet: what the server says of it."""

    experiment: str
    status: str
    description: str
    seconds: float


def say_nothing(_: Waiting) -> None:
    """Nobody is told what a run waits for."""


@dataclass
class Connection:
    """An NDIF server, the journal of the jobs it was given, and how they are waited for."""

    client: Client
    journal: Journal
    on_wait: Callable[[Waiting], None] = say_nothing
    patience: RetryPolicy = field(default_factory=RetryPolicy)


class RemoteJob:
    """Calls that go to a server together."""

    def __init__(self, connection: Connection, model: Model, calls: Sequence[Call], experiment: str) -> None:
        self.client, self.journal, self.patience = connection.client, connection.journal, connection.patience
        self.on_wait, self.model, self.calls, self.experiment = connection.on_wait, model, calls, experiment
        self.where = f"experiments.{experiment}"
        self.start = time.monotonic()

    def outcome(self) -> dict[str, Any]:
        """What the calls find, and where: from a job that was sent before, or from a new one.

        RemoteFailure if neither gives a result; a job that may still end well stays in the journal.
        """
        names = [call.name for call in self.calls]
        entry, trial = self.journal.find(self.client.host, names), 0
        while True:
            doubtful = entry is not None and entry.state == "sending"
            entry = entry or self._new(names)
            try:
                archive = self.journal.result(entry) or self._fetch(entry, doubtful)
                break
            except (Retryable, JobLost) as failure:
                self.journal.remove(entry)
                trial += 1
                if trial == self.patience.tries:
                    raise
                self._rest(trial, failure, "AGAIN")
                entry = None
            except (Rejected, TooLarge) as failure:
                if failure.ended:
                    self.journal.remove(entry)
                raise
        try:
            found = unpack(archive, self.where)
        except ExperimentError:
            self.journal.remove(entry)
            raise
        return found | {"found": [found["found"][entry.names.index(name)] for name in names]}

    def _new(self, names: Sequence[str]) -> JournalEntry:
        """A new job, journaled; it is not sent yet."""
        name = uuid4().hex
        entry = JournalEntry(name, name, self.client.host, self.experiment, tuple(names), "sending")
        self.journal.write(entry)
        return entry

    def _fetch(self, entry: JournalEntry, doubtful: bool) -> bytes:
        """The job's result, which is then in the journal too."""
        if entry.state == "sending":
            entry = self._send(entry, doubtful)
        archive = self._download(entry)
        self.journal.keep(entry, archive)
        return archive

    def _send(self, entry: JournalEntry, doubtful: bool) -> JournalEntry:
        """The entry of a job that the server has; if it is doubtful whether it has, that is asked before it is sent."""
        blob, heard, trial = b"", time.monotonic(), 0
        while not (doubtful and self._has(entry)):
            blob = blob or pack(self.model, self.calls)
            model, env = self.model.nn.to_model_key(), self.model.nn._remoteable_get_env()
            try:
                return self.journal.accept(entry, self.client.submit(entry.id, model, env, blob))
            except Retryable as failure:
                self._check_silence(heard, failure)
                trial += 1
                self._rest(trial, failure, "SENDING")
                doubtful = failure.sent
            except Rejected:
                self.journal.remove(entry)
                raise
        return self.journal.accept(entry, entry.id)

    def _has(self, entry: JournalEntry) -> bool:
        """Whether the server has the job: it says so at once, or not for a while, or it does not have it."""
        heard = asked = time.monotonic()
        trial = 0
        while time.monotonic() - asked <= self.patience.unsure:
            try:
                if self.client.status(entry.id) is not None:
                    return True
                heard, failure = time.monotonic(), None
            except Retryable as silence:
                self._check_silence(heard, silence)
                asked, failure = time.monotonic(), silence
            trial += 1
            self._rest(trial, failure, "SENT?")
        return False

    def _download(self, entry: JournalEntry) -> bytes:
        """The result of a job that the server has; JobLost if it cannot be had whole."""
        trial = 0
        while True:
            response = self._wait_for_end(entry)
            try:
                return self.client.fetch(entry.id, response.data)
            except (Retryable, JobLost) as failure:
                trial += 1
                if trial == self.patience.tries:
                    raise JobLost(f"{self.where}: {failure}") from None
                self._rest(trial, failure, "DOWNLOADING")

    def _wait_for_end(self, entry: JournalEntry) -> ResponseModel:
        """The server's last word on a job: COMPLETED; a RemoteFailure for any other end."""
        heard = known = time.monotonic()
        trial = 0
        while True:
            failure, status, description = None, "QUEUED", "no word of it yet"
            try:
                response = self.client.status(entry.id)
                heard = time.monotonic()
                if response is None and heard - known > self.patience.lost:
                    raise JobLost(f"{self.where}: {self.client.host} knows no job {entry.id}")
                if response is not None:
                    known, status, description = heard, response.status.value, response.description
                    if response.status == Status.COMPLETED:
                        return response
                    if response.status == Status.ERROR:
                        raise failure_from_description(description, self.where)
            except Retryable as passing:
                if status == Status.ERROR.value:
                    raise
                self._check_silence(heard, passing)
                failure, status, description = passing, "SILENT", str(passing)
            trial += 1
            self._rest(trial, failure, status, description)

    def _check_silence(self, heard: float, failure: Retryable) -> None:
        if time.monotonic() - heard > self.patience.silence:
            raise ServerSilent(
                f"{self.where}: {failure}; jobs that were sent are found again by the next run"
            ) from None

    def _rest(self, trial: int, failure: Exception | None, status: str, description: str = "") -> None:
        """Say what is waited for, and wait: longer each time, and never shorter than the server asks for."""
        text = description or (str(failure) if failure else "")
        self.on_wait(Waiting(self.experiment, status, text, time.monotonic() - self.start))
        patience, asked = self.patience, getattr(failure, "after", None)
        time.sleep(max(min(patience.most, patience.first * patience.growth ** min(trial, 50)), asked or 0.0))
