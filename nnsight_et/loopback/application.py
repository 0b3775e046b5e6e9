"""The endpoints of NDIF, and two of its own: /loopback/faults and /loopback/counts."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from dataclasses import asdict
from importlib.metadata import distributions
from socket import socket
from typing import Any

import connections
import uvicorn
from descriptions import EXPIRED_URL, MISSING_BLOB, REFUSAL, STATUS
from dispatch import Dispatcher
from faults import Faults, Rule, UnknownFault
from faulty import Faulty
from jobs import Job, Journal
from processes import Hosting
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


def refusal(name: str, **found: Any) -> JSONResponse:
    """An HTTP error with NDIF's text."""
    code, text = REFUSAL[name]
    return JSONResponse({"detail": text.format(**found)}, code)


class Endpoints:
    """One server's answers."""

    def __init__(self, dispatcher: Dispatcher, keys: dict[str, bool]) -> None:
        self.dispatcher, self.journal, self.keys = dispatcher, dispatcher.journal, keys
        self.sessions = Sessions(dispatcher)
        self.accepted = 0

    def routes(self) -> list[Route | WebSocketRoute]:
        """Every path but the server's own."""
        return [
            Route("/ping", self.ping),
            Route("/connected", self.connected, methods=["GET", "HEAD"]),
            Route("/request", self.request, methods=["POST"]),
            Route("/response/{id}", self.response),
            Route("/results/{id}.pt", self.result),
            Route("/status", self.status),
            Route("/env", self.env),
            Route("/whoami", self.whoami),
            WebSocketRoute("/subscribe", self.sessions.subscribe),
        ]

    async def ping(self, _: Request) -> Response:
        """The program runs."""
        return JSONResponse("pong")

    async def connected(self, _: Request) -> Response:
        """Jobs can run."""
        return self.not_yet() or JSONResponse({"status": "connected"})

    def not_yet(self) -> Response | None:
        """The answer while the server starts."""
        return refusal("reconnecting") if not self.dispatcher.ready else None

    def unwelcome(self, key: str | None) -> Response | None:
        """The answer to a request with no key, with what is no key, or with an unknown one; None if it is known."""
        if not self.keys:
            return None
        if not key:
            return refusal("missing_key")
        try:
            uuid.UUID(key)
        except ValueError:
            return refusal("malformed_key", key=key)
        return None if key in self.keys else refusal("unknown_key")

    async def request(self, request: Request) -> Response:
        """Accept a job."""
        key = request.headers.get("ndif-api-key")
        async with request.form() as form:
            envelope, blob = json.loads(str(form["data"])), form.get("blob")
            content = b"" if blob is None or isinstance(blob, str) else await blob.read()
        if (refused := self.not_yet() or self.unwelcome(key)) is not None:
            return refused
        if not content:
            return JSONResponse({"detail": [MISSING_BLOB]}, 422)
        trusted = self.keys[key] if key in self.keys else envelope.get("trusted", True)
        names = {"model_key", "session_id", "compress", "env", "id"} & set(envelope)
        job = Job(trusted=trusted, **{name: envelope[name] for name in names})
        self.journal.accept(job, content)
        self.accepted += 1
        await self.dispatcher.queue(job)
        return JSONResponse(job.frame("RECEIVED", STATUS["RECEIVED"]))

    async def response(self, request: Request) -> Response:
        """The latest status of a job without a session."""
        name = request.path_params["id"]
        known = self.journal.response(name)
        return refusal("no_response", id=name) if known is None else Response(known, media_type="application/json")

    async def result(self, request: Request) -> Response:
        """A staged result, as an object store answers: for an hour."""
        if float(request.query_params.get("expires", 0)) < time.time():
            return Response(EXPIRED_URL, 403, media_type="application/xml")
        content = self.journal.result(request.path_params["id"])
        if content is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
        return Response(content, media_type="application/octet-stream")

    async def status(self, _: Request) -> Response:
        """The models that are deployed."""
        return self.not_yet() or JSONResponse(self.dispatcher.status())

    async def env(self, _: Request) -> Response:
        """What is installed."""
        packages = {found.metadata["Name"]: found.version for found in distributions()}
        absent = self.dispatcher.hosting.absent
        packages = {name: version for name, version in packages.items() if name.replace("-", "_") != absent}
        return self.not_yet() or JSONResponse({"python_version": sys.version, "packages": packages})

    async def whoami(self, request: Request) -> Response:
        """Whose key it is; of an unknown one nobody's, and only what is no key is refused."""
        key = request.headers.get("ndif-api-key")
        refused = self.unwelcome(key)
        if refused is not None and refused.status_code == REFUSAL["malformed_key"][0]:
            return refused
        if key not in self.keys:
            return JSONResponse({"email": None, "tags": []})
        return JSONResponse({"email": "somebody@localhost", "tags": ["trusted"] if self.keys[key] else []})


class Sessions:
    """Clients that wait for the statuses of their jobs."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    async def subscribe(self, socket: WebSocket) -> None:
        """A session: its id, then every status of the jobs sent under it."""
        rule = self.dispatcher.faults.due("subscribe")
        if rule and rule.what == "status":
            code, detail = rule.refusal()
            await socket.send_denial_response(JSONResponse({"detail": detail}, code))
            return
        await socket.accept()
        session, frames = uuid.uuid4().hex, asyncio.Queue()
        self.dispatcher.sessions[session] = frames
        await socket.send_json({"session_id": session})
        forward = asyncio.create_task(self.forward(socket, frames, rule))
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
        forward.cancel()
        del self.dispatcher.sessions[session]

    async def forward(self, socket: WebSocket, frames: asyncio.Queue, rule: Rule | None) -> None:
        """Send what there is to send, for ever."""
        sent = 0
        while True:
            frame = await frames.get()
            last = isinstance(frame, bytes) or frame["status"] == "COMPLETED"
            for _ in range(2 if last and rule and rule.what == "duplicate" else 1):
                await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_text(json.dumps(frame)))
            sent += 1
            if rule and rule.what == "drop" and sent == rule.frames:
                connections.abort(socket.scope)


class Control:
    """The server's own endpoints."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints, self.rules = endpoints, endpoints.dispatcher.faults
        routes = [
            *endpoints.routes(),
            Route("/loopback/faults", self.faults, methods=["GET", "POST", "DELETE"]),
            Route("/loopback/counts", self.counts),
        ]
        self.application = Faulty(Starlette(routes=routes), self.rules, connections.abort)

    async def faults(self, request: Request) -> Response:
        """The rules; POST adds some, DELETE ends all."""
        if request.method == "DELETE":
            self.rules.rules.clear()
        if request.method == "POST":
            try:
                self.rules.rules += [Rule.of(given) for given in await request.json()]
            except UnknownFault as error:
                return JSONResponse({"detail": str(error)}, 422)
        return JSONResponse([asdict(rule) for rule in self.rules.rules])

    async def counts(self, _: Request) -> Response:
        """What has come in and what has run."""
        seen, jobs = self.application, self.endpoints.journal.jobs
        facts = {name: {"bytes": job.request_bytes, "result": job.result_bytes, "runs": job.runs, "ended": job.ended,
                        "key": job.model_key, "trusted": job.trusted} for name, job in jobs.items()}  # fmt: skip
        traffic = {"requests": seen.requests, "polls": seen.polls, "downloads": seen.downloads}
        connected = self.endpoints.dispatcher.ready
        return JSONResponse({"connected": connected, "accepted": self.endpoints.accepted, "jobs": facts, **traffic})


def keys(given: list[str]) -> dict[str, bool]:
    """key -> whether it is trusted; as written, KEY, KEY:trusted or KEY:untrusted."""
    pairs = (text.partition(":") for text in given)
    return {key: kind != "untrusted" for key, _, kind in pairs}


async def run(chosen: argparse.Namespace, listening: socket) -> None:
    """Serve until stopped."""
    folders = dict(text.split("=", 1) for text in chosen.model)
    hosting = Hosting(folders, chosen.dtype, chosen.absent, chosen.time_limit, chosen.inline_bytes)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    dispatcher = Dispatcher(hosting, Journal(chosen.folder / "jobs"), Faults(), address)
    working = asyncio.create_task(dispatcher.serve())
    config = uvicorn.Config(
        Control(Endpoints(dispatcher, keys(chosen.key))).application, http=connections.Protocol, lifespan="off",
        ws="websockets-sansio", log_level="warning", date_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    if chosen.until_input_ends:
        connections.end_with_input(server)
    connections.announce(chosen.folder, address)
    try:
        await server.serve([listening])
    finally:
        working.cancel()
        dispatcher.process.end()


def serve(chosen: argparse.Namespace, listening: socket) -> None:
    """Serve until stopped."""
    asyncio.run(run(chosen, listening))
