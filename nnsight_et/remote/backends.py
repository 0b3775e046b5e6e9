"""What `backend:` means: nothing for local, an NDIF server, or one of this machine that is started for the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnsight_et.loopback.handle import Loopback
from nnsight_et.models.files import found
from nnsight_et.plan import Job
from nnsight_et.remote.client import Client
from nnsight_et.remote.journal import Journal
from nnsight_et.remote.server import Remote, Server

JOBS, SIMULATED = "jobs", "simulated"


@contextmanager
def serving(backend: str, jobs: Sequence[Job], folder: Path, remote: Remote) -> Iterator[Server | None]:
    """The server that a run's jobs go to; None where models run here."""
    journal = Journal(folder / JOBS)
    if backend == "local":
        yield None
    elif backend == "ndif":
        yield Server(Client(remote.host, remote.key), journal, remote.on_wait, remote.patience)
    else:
        with Loopback.start(folder / SIMULATED, _served(jobs)) as started:
            yield Server(Client(started.address, ""), journal, remote.on_wait, remote.patience)


def _served(jobs: Sequence[Job]) -> dict[str, Path]:
    """Folders of weights and adapters by the names a server of this machine has for them."""
    folders: dict[str, Path] = {}
    for choice in (choice for job in jobs for choice in job.models):
        files = found(choice.name, choice.spec)
        name, adapter = choice.spec.served
        folders[name] = files.weights
        if files.adapter and adapter:
            folders[adapter] = files.adapter
    return folders
