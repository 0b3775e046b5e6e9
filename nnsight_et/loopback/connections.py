"""Connections to the server: one can be cut where an endpoint could only answer; with that of its parent it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_open: dict[Any, asyncio.Transport] = {}


class Protocol(H11Protocol):
    """uvicorn's HTTP protocol, which is also how a session begins."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection."""
        _open[transport.get_extra_info("peername")] = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        _open.pop(self.transport.get_extra_info("peername"), None)
        super().connection_lost(exc)


def abort(scope: Mapping[str, Any]) -> None:
    """Cut the connection that a request came by."""
    _open[tuple(scope["client"])].abort()


def announce(folder: Path, address: str) -> None:
    """Say where the server is."""
    (folder / "address.part").write_text(address + "\n")
    (folder / "address.part").rename(folder / "address")


def end_with_input(server: uvicorn.Server) -> None:
    """Stop the server when its standard input closes, however its parent ended."""

    def look() -> None:
        if not os.read(0, 1024):
            asyncio.get_running_loop().remove_reader(0)
            server.should_exit = True

    asyncio.get_running_loop().add_reader(0, look)
