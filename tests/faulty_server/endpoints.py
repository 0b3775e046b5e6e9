"""The endpoints of NDIF with keys and sessions, and two of this server's own: /loopback/faults and /loopback/counts."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from dataclasses import asdict
from importlib.metadata import distributions
from typing import Any

import connections
from application import Endpoints, refusal
from faults import Rule, UnknownFault
from faulty import Faulty
from faulty_dispatch import FaultyDispatcher, SentJob
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket
from texts import MISSING_BLOB, REFUSAL


class KeyedEndpoints(Endpoints):
    """The answers of a server with keys and sessions."""

    dispatcher: FaultyDispatcher

    def __init__(self, dispatcher: FaultyDispatcher, keys: dict[str, bool]) -> None:
        super().__init__(dispatcher)
        self.keys, self.sessions, self.accepted = keys, Sessions(dispatcher), 0

    def routes(self) -> list[BaseRoute]:
        """Every path but the server's own."""
        return [
            *super().routes(),
            Route("/ping", self.ping),
            Route("/status", self.status),
            Route("/env", self.env),
            Route("/whoami", self.whoami),
            WebSocketRoute("/subscribe", self.sessions.subscribe),
        ]

    async def ping(self, _: Request) -> Response:
        """The program runs."""
        return JSONResponse("pong")

    def refused(self, key: str | None) -> Response | None:
        """The answer to a request with no key, with what is no key, or with an unknown one; None if it is known."""
        if not self.keys:
            return None
        if not key:
            return refusal("missing_key", REFUSAL)
        try:
            uuid.UUID(key)
        except ValueError:
            return refusal("malformed_key", REFUSAL, key=key)
        return None if key in self.keys else refusal("unknown_key", REFUSAL)

    def unwelcome(self, request: Request, content: bytes) -> Response | None:
        """The answer to a request without a known key, or without a block."""
        if (refused := self.refused(request.headers.get("ndif-api-key"))) is not None:
            return refused
        return None if content else JSONResponse({"detail": [MISSING_BLOB]}, 422)

    def job(self, request: Request, envelope: dict[str, Any], content: bytes) -> SentJob:
        """The job that a request asks for."""
        key, self.accepted = request.headers.get("ndif-api-key"), self.accepted + 1
        trusted = self.keys[key] if key in self.keys else envelope.get("trusted", True)
        names = {"model_key", "session_id", "compress", "env", "id"} & set(envelope)
        given = {name: envelope[name] for name in names}
        return SentJob(**given, blob=content, trusted=trusted, request_bytes=len(content))

    async def status(self, _: Request) -> Response:
        """The models that are deployed."""
        return self.not_yet() or JSONResponse(self.dispatcher.status())

    async def env(self, _: Request) -> Response:
        """What is installed."""
        packages = {found.metadata["Name"]: found.version for found in distributions()}
        absent = self.dispatcher.process.absent
        packages = {name: version for name, version in packages.items() if name.replace("-", "_") != absent}
        return self.not_yet() or JSONResponse({"python_version": sys.version, "packages": packages})

    async def whoami(self, request: Request) -> Response:
        """Whose key it is; of an unknown one nobody's, and only what is no key is refused."""
        key = request.headers.get("ndif-api-key")
        refused = self.refused(key)
        if refused is not None and refused.status_code == REFUSAL["malformed_key"][0]:
            return refused
        if key not in self.keys:
            return JSONResponse({"email": None, "tags": []})
        return JSONResponse({"email": "somebody@localhost", "tags": ["trusted"] if self.keys[key] else []})


class Sessions:
    """Clients that wait for the statuses of their jobs."""

    def __init__(self, dispatcher: FaultyDispatcher) -> None:
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

    def __init__(self, endpoints: KeyedEndpoints) -> None:
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
        seen, jobs = self.application, self.endpoints.dispatcher.jobs
        facts = {name: {"bytes": job.request_bytes, "result": job.result_bytes, "runs": job.runs, "ended": job.ended,
                        "key": job.model_key, "trusted": job.trusted} for name, job in jobs.items()}  # fmt: skip
        traffic = {"requests": seen.requests, "polls": seen.polls, "downloads": seen.downloads}
        connected = self.endpoints.dispatcher.ready
        return JSONResponse({"connected": connected, "accepted": self.endpoints.accepted, "jobs": facts, **traffic})
