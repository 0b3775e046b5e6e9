"""Jobs on a server, from calls to what they find; in smaller ones where one is too much.

A job is journaled, sent, waited for and fetched; it is sent again only when the server cannot have it.
"""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from uuid import uuid4

import nnsight
import torch
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend

from nnsight_et.core.errors import ExperimentError, UnsupportedModel
from nnsight_et.interventions.calls import Call, run_calls
from nnsight_et.interventions.split_calls import split_call
from nnsight_et.loopback.handle import Loopback
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import check_no_gguf, download_files
from nnsight_et.models.load import check_gap
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.client import Client
from nnsight_et.remote.failures import JobLost, Rejected, Retryable, ServerSilent, TooLarge, failure_from_description
from nnsight_et.remote.journal import Journal, JournalEntry


class Packing(Backend):
    """An nnsight backend that runs nothing: it keeps the block as the bytes a server takes."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        """Pack the block."""
        self.blob = RequestModel.serialize(tracer, True)


def pack(model: Model, calls: Sequence[Call]) -> bytes:
    """The calls as one job: one session whose traces all run where the model is."""
    packing = Packing()
    with model.nn.session(backend=packing):
        outcome = nnsight.save(run_calls(model, calls))  # noqa: F841 - the server's name for what comes home
    return packing.blob


def unpack(archive: bytes, where: str) -> dict[str, Any]:
    """What run_calls gave; ExperimentError if these bytes are not of such a job."""
    try:
        return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)["outcome"]
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ExperimentError(
            f"{where}: the server returned something else than results ({found}); accepted: plain tensors"
        ) from None


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
    """Ignore what a run waits for."""


class RemoteJob:
    """Calls that go to a server together."""

    def __init__(self, server: Server, model: Model, calls: Sequence[Call], experiment: str) -> None:
        self.client, self.journal, self.patience = server.client, server.journal, server.patience
        self.on_wait, self.model, self.calls, self.experiment = server.on_wait, model, calls, experiment
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
            raise ServerSilent(f"{self.where}: {failure}; the next run finds the jobs that were sent") from None

    def _rest(self, trial: int, failure: Exception | None, status: str, description: str = "") -> None:
        """Say what is waited for, and wait: longer each time, and never shorter than the server asks for."""
        text = description or (str(failure) if failure else "")
        self.on_wait(Waiting(self.experiment, status, text, time.monotonic() - self.start))
        patience, asked = self.patience, getattr(failure, "after", None)
        time.sleep(max(min(patience.most, patience.first * patience.growth ** min(trial, 50)), asked or 0.0))


@dataclass(frozen=True)
class Remote:
    """How a run uses a server: where waiting is reported, how long it waits, and which server, if not nnsight's own."""

    on_wait: Callable[[Waiting], None] = say_nothing
    patience: RetryPolicy = field(default_factory=RetryPolicy)
    host: str | None = None
    key: str | None = field(default=None, repr=False)


@dataclass
class Server:
    """An NDIF server, the journal of the jobs it was given, and how they are waited for."""

    client: Client
    journal: Journal
    on_wait: Callable[[Waiting], None] = say_nothing
    patience: RetryPolicy = field(default_factory=RetryPolicy)

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
        found = f"{choice.name} runs in {place['dtype']} on the server, but the manifest says {choice.dtype}"
        raise UnsupportedModel(f"{where}: {found}; accepted: dtype: {place['dtype']}")
    check_gap(place["gap"].item(), getattr(torch, choice.dtype), f"{where}: {choice.name}")


JOBS, SIMULATED = "jobs", "simulated"


@contextmanager
def open_server(backend: str, jobs: Sequence[Job], folder: Path, remote: Remote) -> Iterator[Server | None]:
    """The server that a run's jobs go to; None where models run here."""
    journal = Journal(folder / JOBS)
    if backend == "local":
        yield None
    elif backend == "ndif":
        yield Server(Client(remote.host, remote.key), journal, remote.on_wait, remote.patience)
    else:
        with Loopback.start(folder / SIMULATED, _folders(jobs, folder / SIMULATED / "models")) as started:
            yield Server(Client(started.address, ""), journal, remote.on_wait, remote.patience)


def name_on_server(backend: str, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with a name for every model on the server that `backend` means."""
    if backend != "simulate":
        return list(jobs)
    return [replace(job, models=tuple(replace(one, spec=_model_spec(one)) for one in job.models)) for job in jobs]


def _model_spec(choice: ModelChoice) -> ModelSpec:
    name = "here/" + re.sub(r"[^\w.-]+", "-", choice.name).strip("-.")
    return replace(choice.spec, ndif=name, ndif_adapter=f"{name}-adapter" if choice.spec.adapter else None)


def _folders(jobs: Sequence[Job], root: Path) -> dict[str, Path]:
    """Folders of models, each with its tokenizer, and of adapters by the names the server has for them."""
    folders: dict[str, Path] = {}
    shutil.rmtree(root, ignore_errors=True)
    for choice in (choice for job in jobs for choice in job.models):
        name, adapter = choice.spec.ndif, choice.spec.ndif_adapter
        if name is None or name in folders:
            continue
        check_no_gguf(choice.name, choice.spec)
        files = download_files(choice.name, choice.spec)
        folders[name] = root / name
        folders[name].mkdir(parents=True)
        for folder in (files.tokenizer, files.weights):
            for path in folder.iterdir():
                (folders[name] / path.name).unlink(missing_ok=True)
                (folders[name] / path.name).symlink_to(path.resolve())
        if files.adapter and adapter:
            folders[adapter] = files.adapter
    return folders
