"""Connections to the server, which can be cut where an endpoint could only answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

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
