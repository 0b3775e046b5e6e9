"""What `backend:` means: nothing for local, an NDIF server, or one of this machine that is started for the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nnsight_et.loopback.handle import Loopback
from nnsight_et.models.files import check_no_gguf, download_files
from nnsight_et.models.named import ModelSpec
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.client import Client
from nnsight_et.remote.journal import Journal
from nnsight_et.remote.server import Remote, Server

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
