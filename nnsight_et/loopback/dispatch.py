"""The queue: one job at a time through the process with the models, and every status to whoever asked for it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from descriptions import JOB_ERROR, STATUS
from faults import Faults, Rule
from hosted import Order
from jobs import Frame, Job, Journal
from processes import Hosting, Process


class TimeUp(Exception):
    """A job ran for longer than it may; its text is that time in seconds."""


@dataclass
class Dispatcher:
    """Queue, sessions and results of one server."""

    hosting: Hosting
    journal: Journal
    faults: Faults
    address: str = ""
    waiting: list[Job] = field(default_factory=list)
    sessions: dict[str, asyncio.Queue] = field(default_factory=dict)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = False  # the process with the models has started

    def __post_init__(self) -> None:
        self.process = Process(self.hosting)

    async def serve(self) -> None:
        """Start the process with the models, then run what is queued, for ever; what an earlier server left first."""
        await asyncio.to_thread(self.process.start)
        self.ready = True
        for job in self.journal.unfinished():
            await self.queue(job)
        while True:
            await self.more.wait()
            if self.waiting:
                await self.handle(self.waiting.pop(0))
            else:
                self.more.clear()

    async def queue(self, job: Job) -> None:
        """Put a job into the queue and tell it where it stands."""
        self.waiting.append(job)
        self.tell(job, job.frame("QUEUED", STATUS["QUEUED"].format(position=len(self.waiting))))
        self.more.set()

    def tell(self, job: Job, frame: Frame | bytes) -> None:
        """Send a status to the job's session, or keep it for polling if it has none. Who left is told nothing."""
        if job.session_id:
            if job.session_id in self.sessions:
                self.sessions[job.session_id].put_nowait(frame)
        elif isinstance(frame, dict) and frame["status"] != "LOG":
            self.journal.respond(job, frame)

    async def handle(self, job: Job) -> None:
        """Take a job from the queue to its end, or to what a fault makes of it."""
        rule = self.faults.due("job")
        if rule and rule.what == "lost":
            self.journal.forget(job)
            return
        if rule and rule.what == "queued":
            await asyncio.sleep(rule.seconds)
        try:
            if await self.deployed(job):
                self.tell(job, job.frame("DISPATCHED", STATUS["DISPATCHED"]))
                await (self.fail(job, rule) if rule and rule.what in ("error", "evicted") else self.run(job, rule))
        except TimeUp as up:
            text = JOB_ERROR["time_limit"].format(limit=up)
            self.end(job, job.frame("ERROR", text))
        except (EOFError, OSError):
            self.end(job, job.frame("ERROR", JOB_ERROR["replica_restarted"]))
        else:
            return
        await asyncio.to_thread(self.process.end)
        await asyncio.to_thread(self.process.start)

    async def deployed(self, job: Job) -> bool:
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

    async def fail(self, job: Job, rule: Rule) -> None:
        """Start it; then its model is lost and it goes back to the queue's front, or it ends as the rule says."""
        self.tell(job, job.frame("RUNNING", STATUS["RUNNING"]))
        await asyncio.sleep(rule.seconds)
        if rule.what == "evicted":
            await self.process.ask("drop", job.model_key)
            del self.process.loaded[job.model_key]
            self.waiting.insert(0, job)
            return
        text = JOB_ERROR[rule.name] if rule.name else rule.detail
        found = {"limit": self.hosting.time_limit, "reason": rule.detail, "error": rule.detail, "path": rule.detail}
        meta = {"runtime": rule.seconds, "max_memory_usage": 0, "max_mem_by_gpu": {}, "max_mem_pct_by_gpu": {}}
        self.end(job, job.frame("ERROR", text.format(**found) if rule.name else text, meta=meta))

    async def run(self, job: Job, rule: Rule | None) -> None:
        """Run it and tell what it says, its result last."""
        self.tell(job, job.frame("RUNNING", STATUS["RUNNING"]))
        if rule and rule.what == "running":
            await asyncio.sleep(rule.seconds)
        job.runs += 1
        inline = self.hosting.inline_bytes if job.session_id and self.hosting.inline_bytes else -1
        order = Order(job.id, job.model_key, job.env, job.compress, inline, self.journal.request(job))
        async with _limit(rule.seconds if rule and rule.what == "limit" else self.hosting.time_limit):
            kind, *rest = await self.process.ask("run", order, None if job.trusted else self.process.block(order))
            while kind == "log":
                self.tell(job, job.frame("LOG", rest[0]))
                kind, *rest = await self.process.ask()
        await asyncio.to_thread(self.process.end_block)
        if kind == "failed":
            self.end(job, job.frame("ERROR", rest[0], meta=rest[1]))
            return
        result, message, meta = rest
        job.result_bytes = len(result)
        if message is None:
            self.journal.stage(job, result)
            url = f"{self.address}/results/{job.id}.pt?expires={int(time.time()) + 3600}"
            message = job.frame("COMPLETED", STATUS["COMPLETED"], data=url, meta=meta)
        self.end(job, message)

    def end(self, job: Job, frame: Frame | bytes) -> None:
        """Tell the last status of a job."""
        job.ended = True
        self.journal.note(job)
        self.tell(job, frame)

    def status(self) -> dict[str, Any]:
        """What /status answers: the models in memory, and the folders that could be."""
        entries, seen = {}, set()
        for key, facts in self.process.loaded.items():
            parts = json.loads(key.partition(":")[2])
            seen.add(parts["repo_id"])
            entries[f"ModelActor:{key}"] = {
                "application_state": "RUNNING", "deployment_level": "HOT", "pinned": False, "trusted": True,
                "dtype": self.hosting.dtype, "execution_timeout_seconds": self.hosting.time_limit,
                "model_key": key, "replica_id": "0", "repo_id": parts["repo_id"], "task": parts.get("task"),
                "revision": parts.get("revision"), "gpus": None, **facts,
            }  # fmt: skip
        cold = {"deployment_level": "COLD"}
        entries |= {name: cold | {"repo_id": name} for name in self.hosting.folders if name not in seen}
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
