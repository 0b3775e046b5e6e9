"""The endpoints of NDIF that a client without a session uses."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import uvicorn
from descriptions import REFUSAL, STATUS
from dispatch import Dispatcher, ServerJob
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route


def refusal(name: str, texts: dict[str, tuple[int, str]] = REFUSAL, **found: Any) -> JSONResponse:
    """An HTTP error with NDIF's text."""
    code, text = texts[name]
    return JSONResponse({"detail": text.format(**found)}, code)


class Endpoints:
    """One server's answers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    def routes(self) -> list[BaseRoute]:
        """Every path."""
        return [
            Route("/connected", self.report_connected, methods=["GET", "HEAD"]),
            Route("/request", self.request, methods=["POST"]),
            Route("/response/{id}", self.response),
            Route("/results/{id}.pt", self.result),
        ]

    async def report_connected(self, _: Request) -> Response:
        """Jobs can run."""
        return self.not_yet() or JSONResponse({"status": "connected"})

    def not_yet(self) -> Response | None:
        """The answer while the server starts."""
        return refusal("reconnecting") if not self.dispatcher.ready else None

    async def request(self, request: Request) -> Response:
        """Accept a job."""
        async with request.form() as form:
            envelope, blob = json.loads(str(form["data"])), form.get("blob")
            content = b"" if blob is None or isinstance(blob, str) else await blob.read()
        if (refused := self.not_yet() or self.unwelcome(request, content)) is not None:
            return refused
        job = self.job(request, envelope, content)
        self.dispatcher.accept(job)
        return JSONResponse(job.frame("RECEIVED", STATUS["RECEIVED"]))

    def unwelcome(self, request: Request, content: bytes) -> Response | None:
        """The answer to a request that is no job; here all are."""

    def job(self, request: Request, envelope: dict[str, Any], content: bytes) -> ServerJob:
        """The job that a request asks for."""
        return ServerJob(**{name: envelope[name] for name in ("model_key", "compress", "env", "id")}, blob=content)

    async def response(self, request: Request) -> Response:
        """The latest status of a job."""
        name = request.path_params["id"]
        job = self.dispatcher.jobs.get(name)
        return refusal("no_response", id=name) if job is None or job.response is None else JSONResponse(job.response)

    async def result(self, request: Request) -> Response:
        """A staged result, as an object store answers."""
        job = self.dispatcher.jobs.get(request.path_params["id"])
        if job is None or job.result is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
        return Response(job.result, media_type="application/octet-stream")


async def run(dispatcher: Dispatcher, application: Any, listening: Any, folder: Path, **how: Any) -> None:
    """Serve until stopped, or until standard input closes, however the parent ended; write `folder`/address when up."""
    working = asyncio.create_task(dispatcher.serve())
    server = uvicorn.Server(
        uvicorn.Config(
            application, lifespan="off", log_level="warning", date_header=False, timeout_graceful_shutdown=1, **how
        )
    )

    def look() -> None:
        if not os.read(0, 1024):
            asyncio.get_running_loop().remove_reader(0)
            server.should_exit = True

    asyncio.get_running_loop().add_reader(0, look)
    (folder / "address.part").write_text(dispatcher.address + "\n")
    (folder / "address.part").rename(folder / "address")
    try:
        await server.serve([listening])
    finally:
        working.cancel()
        dispatcher.process.end()
