"""The queue of a server with sessions, faults and a time limit, whose jobs can outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from descriptions import STATUS
from dispatch import Dispatcher, Frame, ServerJob
from faults import Faults, Rule
from faulty_worker import SentOrder, SplitProcess
from texts import JOB_ERROR


class TimeUp(Exception):
    """A job ran for longer than it may; its text is that time in seconds."""


@dataclass
class SentJob(ServerJob):
    """A request with its session, whose key sent it, and what has happened to it."""

    session_id: str = ""
    trusted: bool = True
    request_bytes: int = 0
    result_bytes: int = 0
    runs: int = 0
    received: float = field(default_factory=time.time)
    ended: bool = False


class Journal:
    """The jobs of a server, each in a folder of its own: job.json, request, result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> list[SentJob]:
        """What an earlier server left, in the order it came."""
        found = []
        for path in self.folder.glob("*/job.json"):
            blob, result = (
                place.read_bytes() if place.exists() else None
                for place in (path.parent / "request", path.parent / "result")
            )
            found.append(SentJob(**json.loads(path.read_text()), blob=blob or b"", result=result))
        return sorted(found, key=lambda job: job.received)

    def write(self, job: SentJob) -> None:
        """Keep what has changed about a job."""
        folder = self.folder / job.id
        folder.mkdir(parents=True, exist_ok=True)
        plain = {name: value for name, value in asdict(job).items() if name not in ("blob", "result")}
        for name, content in (("request", job.blob), ("result", job.result), ("job.json", json.dumps(plain).encode())):
            if content:
                (folder / "part").write_bytes(content)
                os.replace(folder / "part", folder / name)


class FaultyDispatcher(Dispatcher[SentJob]):
    """Queue, sessions and results of one server."""

    process: SplitProcess

    def __init__(self, process: SplitProcess, address: str, journal: Journal, limits: tuple[float, int]) -> None:
        super().__init__(process, address)
        self.journal, self.faults, (self.time_limit, self.inline_bytes) = journal, Faults(), limits
        self.sessions: dict[str, asyncio.Queue] = {}
        self.rule: Rule | None = None  # of the job that runs
        for job in journal.read():
            self.jobs[job.id] = job
            if not job.ended:
                self.accept(job)

    def accept(self, job: SentJob) -> None:
        """Keep it, then put it into the queue."""
        self.journal.write(job)
        super().accept(job)

    def tell(self, job: SentJob, frame: Frame | bytes) -> None:
        """Send a status to the job's session, or keep it for polling if it has none. Who left is told nothing."""
        if job.session_id:
            if job.session_id in self.sessions:
                self.sessions[job.session_id].put_nowait(frame)
        elif isinstance(frame, dict) and frame["status"] != "LOG":
            super().tell(job, frame)
            self.journal.write(job)

    async def handle(self, job: SentJob) -> None:
        """Take a job from the queue to its end, or to what a fault makes of it."""
        rule = self.rule = self.faults.due("job")
        if rule and rule.what == "lost":
            del self.jobs[job.id]
            return
        if rule and rule.what == "queued":
            await asyncio.sleep(rule.seconds)
        try:
            await super().handle(job)
        except TimeUp as up:
            await self.end_job(job, JOB_ERROR["time_limit"].format(limit=up))

    async def run(self, job: SentJob) -> None:
        """Run it; or start it, and then its model is lost and it runs again, or it ends as a rule says."""
        rule = self.rule
        if not rule or rule.what not in ("error", "evicted"):
            await super().run(job)
            return
        self.tell(job, job.frame("RUNNING", STATUS["RUNNING"]))
        await asyncio.sleep(rule.seconds)
        if rule.what == "evicted":
            await self.process.ask("drop", job.model_key)
            del self.process.loaded[job.model_key]
            await self.handle(job)
            return
        text = JOB_ERROR[rule.name] if rule.name else rule.detail
        found = {"limit": self.time_limit, "reason": rule.detail, "error": rule.detail, "path": rule.detail}
        self.end(job, job.frame("ERROR", text.format(**found) if rule.name else text))

    async def run_job(self, job: SentJob) -> tuple[str, Any]:
        """Run it in its process, in one of its own if it is not trusted, and tell what it prints."""
        rule = self.rule
        if rule and rule.what == "running":
            await asyncio.sleep(rule.seconds)
        job.runs += 1
        inline = self.inline_bytes if job.session_id and self.inline_bytes else -1
        order = SentOrder(job.model_key, job.env, job.compress, job.blob, job.id, inline)
        async with _limit(rule.seconds if rule and rule.what == "limit" else self.time_limit):
            kind, *rest = await self.process.ask("run", order, None if job.trusted else self.process.block(order))
            while kind == "log":
                self.tell(job, job.frame("LOG", rest[0]))
                kind, *rest = await self.process.ask()
        await asyncio.to_thread(self.process.end_block)
        if kind == "done":
            job.result_bytes = rest[1]
        return kind, rest[0]

    def end(self, job: SentJob, frame: Frame | bytes) -> None:
        """Tell the last status of a job; a result that travels inside it is not staged."""
        job.ended = True
        if isinstance(frame, dict) and frame["status"] == "COMPLETED" and isinstance(job.result, tuple):
            (frame,), job.result = job.result, None
        self.journal.write(job)
        super().end(job, frame)

    def status(self) -> dict[str, Any]:
        """What /status answers: the models in memory, and the folders that could be."""
        entries, seen = {}, set()
        for key, facts in self.process.loaded.items():
            parts = json.loads(key.partition(":")[2])
            seen.add(parts["repo_id"])
            entries[f"ModelActor:{key}"] = {
                "application_state": "RUNNING", "deployment_level": "HOT", "pinned": False, "trusted": True,
                "dtype": "float32", "execution_timeout_seconds": self.time_limit,
                "model_key": key, "replica_id": "0", "repo_id": parts["repo_id"], "task": parts.get("task"),
                "revision": parts.get("revision"), "gpus": None, **facts,
            }  # fmt: skip
        cold = {"deployment_level": "COLD"}
        entries |= {name: cold | {"repo_id": name} for name in self.process.folders if name not in seen}
        return {"deployments": entries, "cluster": {"nodes": {}}}


class _limit:
    """Raises TimeUp when what is inside takes longer; asyncio's own error could also be the job's."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.timeout = seconds, asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self.timeout.__aenter__()

    async def __aexit__(self, *problem: Any) -> None:
        try:
            await self.timeout.__aexit__(*problem)
        except TimeoutError as error:
            raise TimeUp(self.seconds) from error
