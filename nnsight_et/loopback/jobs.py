"""Jobs as the server knows them: request, latest status, result; on disk, so that they can outlive it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

Frame = dict[str, Any]


@dataclass
class Job:
    """One request: its envelope, whose key sent it, and what has happened to it."""

    model_key: str
    session_id: str
    compress: bool
    env: dict[str, Any]
    trusted: bool
    id: str = field(default_factory=lambda: uuid4().hex)
    request_bytes: int = 0
    result_bytes: int = 0
    runs: int = 0
    received: float = field(default_factory=time.time)
    ended: bool = False

    def frame(self, status: str, description: str = "", **more: Any) -> Frame:
        """A status message about it, as nnsight's ResponseModel reads it."""
        return {"id": self.id, "status": status, "description": description, "data": None, "meta": None} | more


class Journal:
    """The jobs of one server, each in a folder of its own: job.json, request, response.json, result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        for path in sorted(folder.glob("*/job.json")):
            job = Job(**json.loads(path.read_text()))
            self.jobs[job.id] = job

    def accept(self, job: Job, blob: bytes) -> None:
        """Keep a new job and its request."""
        job.request_bytes = len(blob)
        self.jobs[job.id] = job
        (self.folder / job.id).mkdir(parents=True)
        self._write(job, "request", blob)
        self.note(job)

    def note(self, job: Job) -> None:
        """Keep what has changed about a job."""
        self._write(job, "job.json", json.dumps(asdict(job)).encode())

    def unfinished(self) -> list[Job]:
        """Jobs that were accepted and have not ended, in the order they came."""
        return sorted((job for job in self.jobs.values() if not job.ended), key=lambda job: job.received)

    def request(self, job: Job) -> bytes:
        """The blob that came with it."""
        return (self.folder / job.id / "request").read_bytes()

    def respond(self, job: Job, frame: Frame) -> None:
        """Keep the latest status, for those who poll."""
        self._write(job, "response.json", json.dumps(frame).encode())

    def response(self, name: str) -> bytes | None:
        """The latest status of a job, as JSON; None for one that is unknown or has none yet."""
        path = self.folder / name / "response.json"
        return path.read_bytes() if name in self.jobs and path.exists() else None

    def stage(self, job: Job, result: bytes) -> None:
        """Keep a result for download."""
        self._write(job, "result", result)

    def result(self, name: str) -> bytes | None:
        """A result kept for download."""
        path = self.folder / name / "result"
        return path.read_bytes() if name in self.jobs and path.exists() else None

    def forget(self, job: Job) -> None:
        """Know nothing of a job any more."""
        self.jobs.pop(job.id, None)

    def _write(self, job: Job, name: str, content: bytes) -> None:
        path = self.folder / job.id / name
        part = path.with_name(name + ".part")
        part.write_bytes(content)
        os.replace(part, path)
