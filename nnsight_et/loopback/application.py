"""The endpoints of NDIF, and two of its own: /loopback/faults and /loopback/counts."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import distributions
from socket import socket
from typing import Any

import uvicorn
from descriptions import EXPIRED_URL, REFUSAL, STATUS
from dispatch import Dispatcher
from jobs import Job, Journal
from processes import Hosting
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


def refusal(name: str, **found: Any) -> JSONResponse:
    """An HTTP error with NDIF's text."""
    code, text = REFUSAL[name]
    return JSONResponse({"detail": text.format(**found)}, code)


class Endpoints:
    """One server's answers."""

    def __init__(self, dispatcher: Dispatcher, keys: dict[str, bool]) -> None:
        self.dispatcher, self.journal, self.keys = dispatcher, dispatcher.journal, keys

    def routes(self) -> list[Route | WebSocketRoute]:
        """Every path."""
        return [
            Route("/ping", self.ping),
            Route("/connected", self.connected, methods=["GET", "HEAD"]),
            Route("/request", self.request, methods=["POST"]),
            Route("/response/{id}", self.response),
            Route("/results/{id}.pt", self.result),
            Route("/status", self.status),
            Route("/env", self.env),
            Route("/whoami", self.whoami),
            WebSocketRoute("/subscribe", self.subscribe),
        ]

    async def ping(self, _: Request) -> Response:
        """The program runs."""
        return JSONResponse("pong")

    async def connected(self, _: Request) -> Response:
        """Jobs can run."""
        return JSONResponse({"status": "connected"})

    def unwelcome(self, key: str | None) -> Response | None:
        """The answer to a request with no key, with what is no key, or with an unknown one; None if keys are off."""
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
            envelope, blob = json.loads(str(form["data"])), form["blob"]
            assert not isinstance(blob, str)
            content = await blob.read()
        refused = self.unwelcome(key)
        if refused is not None:
            return refused
        trusted = self.keys[key] if key in self.keys else envelope.get("trusted", True)
        fields = {name: envelope[name] for name in ("model_key", "session_id", "compress", "env")}
        job = Job(trusted=trusted, **fields)
        self.journal.accept(job, content)
        await self.dispatcher.queue(job)
        return JSONResponse(job.frame("RECEIVED", STATUS["RECEIVED"]))

    async def response(self, request: Request) -> Response:
        """The latest status of a job without a session."""
        name = request.path_params["id"]
        known = self.journal.response(name)
        return refusal("no_response", id=name) if known is None else Response(known, media_type="application/json")

    async def result(self, request: Request) -> Response:
        """A staged result, for an hour."""
        content = self.journal.result(request.path_params["id"])
        if content is None:
            return PlainTextResponse("<Error><Code>NoSuchKey</Code></Error>", 404)
        if float(request.query_params.get("expires", 0)) < time.time():
            return Response(EXPIRED_URL, 403, media_type="application/xml")
        return Response(content, media_type="application/octet-stream")

    async def status(self, _: Request) -> Response:
        """The models that are deployed."""
        return JSONResponse(self.dispatcher.status())

    async def env(self, _: Request) -> Response:
        """What is installed."""
        packages = {found.metadata["Name"]: found.version for found in distributions()}
        return JSONResponse({"python_version": sys.version, "packages": packages, "platform": platform.platform()})

    async def whoami(self, request: Request) -> Response:
        """Whose key it is."""
        key = request.headers.get("ndif-api-key")
        if key not in self.keys:
            return JSONResponse({"email": None, "tags": []})
        return JSONResponse({"email": "somebody@localhost", "tags": ["trusted"] if self.keys[key] else []})

    async def subscribe(self, socket: WebSocket) -> None:
        """A session: its id, then every status of the jobs sent under it."""
        await socket.accept()
        session, frames = uuid.uuid4().hex, asyncio.Queue()
        self.dispatcher.sessions[session] = frames
        await socket.send_json({"session_id": session})
        forward = asyncio.create_task(self._forward(socket, frames))
        try:
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
        except WebSocketDisconnect:
            pass
        finally:
            forward.cancel()
            del self.dispatcher.sessions[session]

    async def _forward(self, socket: WebSocket, frames: asyncio.Queue) -> None:
        while True:
            frame = await frames.get()
            await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_text(json.dumps(frame)))


def keys(given: list[str]) -> dict[str, bool]:
    """key -> whether it is trusted; as written, KEY or KEY:untrusted."""
    pairs = (text.partition(":") for text in given)
    return {key: kind != "untrusted" for key, _, kind in pairs}


def serve(chosen: argparse.Namespace, listening: socket) -> None:
    """Serve until stopped; the address is written when the first job could run."""
    folders = dict(text.split("=", 1) for text in chosen.model)
    hosting = Hosting(folders, chosen.dtype, chosen.absent, chosen.time_limit, chosen.inline_bytes)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    dispatcher = Dispatcher(hosting, Journal(chosen.folder / "jobs"), address)
    endpoints = Endpoints(dispatcher, keys(chosen.key))

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        await dispatcher.prepare()
        working = asyncio.create_task(dispatcher.serve())
        part = chosen.folder / "address.part"
        part.write_text(address + "\n")
        part.rename(chosen.folder / "address")
        yield
        working.cancel()
        dispatcher.process.end()

    application = Starlette(routes=endpoints.routes(), lifespan=life)
    config = uvicorn.Config(
        application, http="h11", ws="websockets-sansio", log_level="warning", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run([listening])
