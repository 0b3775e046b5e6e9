"""The queue: one job at a time through the process with the models, and every status kept for whoever asks."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import uuid4

from descriptions import JOB_ERROR, STATUS
from worker import Order, main

PRELOADED = ["nnsight", "peft", "transformers.models.llama.modeling_llama", "zstandard"]


class Process:
    """The process with the models: forked from one that has imported what it needs, started again after it was killed.

    The server itself imports neither torch nor nnsight.
    """

    def __init__(self, folders: Mapping[str, str], absent: str, target: Callable[..., None] = main) -> None:
        self.folders, self.absent, self.target = dict(folders), absent, target
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.process = None

    def start(self) -> None:
        """Start it, with no model loaded."""
        self.loaded: dict[str, dict[str, Any]] = {}
        self.pipe, its = self.context.Pipe()
        self.process = self.context.Process(target=self.target, args=(its, self.folders, self.absent), daemon=True)
        self.process.start()
        its.close()

    def end(self) -> None:
        """Kill it, if it runs."""
        if self.process is None:
            return
        self.process.kill()
        self.process.join()
        self.pipe.close()

    async def ask(self, *order: Any) -> tuple:
        """Its next message, after an order if one is given; EOFError when it died."""
        if order:
            self.pipe.send(order)
        return await asyncio.to_thread(self.pipe.recv)


Frame = dict[str, Any]


@dataclass
class ServerJob:
    """One request, and what has happened to it."""

    model_key: str
    compress: bool
    env: dict[str, Any]
    id: str = field(default_factory=lambda: uuid4().hex)
    blob: bytes = field(default=b"", repr=False)
    response: Frame | None = None
    result: bytes | None = field(default=None, repr=False)

    def frame(self, status: str, description: str = "", **more: Any) -> Frame:
        """A status message about it, as nnsight's ResponseModel reads it."""
        return {"id": self.id, "status": status, "description": description, "data": None, "meta": None} | more


J = TypeVar("J", bound=ServerJob)


class Dispatcher(Generic[J]):
    """Queue and results of one server."""

    def __init__(self, process: Process, address: str) -> None:
        self.process, self.address = process, address
        self.jobs: dict[str, J] = {}
        self.waiting: asyncio.Queue[J] = asyncio.Queue()
        self.ready = False  # the process with the models has started

    async def serve(self) -> None:
        """Start the process with the models, then run what is queued, for ever."""
        await asyncio.to_thread(self.process.start)
        self.ready = True
        while True:
            await self.handle(await self.waiting.get())

    def accept(self, job: J) -> None:
        """Put a job into the queue and tell it where it stands."""
        self.jobs[job.id] = job
        self.waiting.put_nowait(job)
        self.tell(job, job.frame("QUEUED", STATUS["QUEUED"].format(position=self.waiting.qsize())))

    def tell(self, job: J, frame: Any) -> None:
        """Keep a status, for those who poll."""
        job.response = frame

    async def handle(self, job: J) -> None:
        """Take a job from the queue to its end."""
        try:
            if await self.load_deployment(job):
                self.tell(job, job.frame("DISPATCHED", STATUS["DISPATCHED"]))
                await self.run(job)
        except (EOFError, OSError):
            await self.end_job(job, JOB_ERROR["replica_restarted"])

    async def end_job(self, job: J, text: str) -> None:
        """End a job whose process is of no use any more."""
        self.end(job, job.frame("ERROR", text))
        await asyncio.to_thread(self.process.end)
        await asyncio.to_thread(self.process.start)

    async def load_deployment(self, job: J) -> bool:
        """Whether the job's model is in memory, loaded now if need be; if it cannot be, the job has failed."""
        if job.model_key in self.process.loaded:
            return True
        for step in ("PROVISIONING", "DEPLOYING"):
            self.tell(job, job.frame(step, STATUS[step]))
        kind, found = await self.process.ask("load", job.model_key)
        if kind == "refused":
            self.end(job, job.frame("ERROR", JOB_ERROR["not_deployed"].format(reason=found)))
            return False
        self.process.loaded[job.model_key] = found
        self.tell(job, job.frame("QUEUED", STATUS["MOVED"].format(position=1)))
        return True

    async def run(self, job: J) -> None:
        """Run it; its result is staged for download."""
        self.tell(job, job.frame("RUNNING", STATUS["RUNNING"]))
        kind, found = await self.run_job(job)
        if kind == "failed":
            self.end(job, job.frame("ERROR", found))
            return
        job.result = found
        self.end(job, job.frame("COMPLETED", STATUS["COMPLETED"], data=f"{self.address}/results/{job.id}.pt"))

    async def run_job(self, job: J) -> tuple[str, Any]:
        """("done", its result) or ("failed", why)."""
        return await self.process.ask("run", Order(job.model_key, job.env, job.compress, job.blob))

    def end(self, job: J, frame: Any) -> None:
        """Tell the last status of a job."""
        job.blob = b""
        self.tell(job, frame)
