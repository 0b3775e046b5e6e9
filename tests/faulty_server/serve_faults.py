"""The server with faults as a program: serve.py of nnsight_et/loopback, which PYTHONPATH names, with more options."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys


def main() -> None:
    """Serve until stopped."""
    import connections  # not at the top: the job processes import this file too, and need none of it
    from application import run
    from endpoints import Control, KeyedEndpoints
    from faulty_dispatch import FaultyDispatcher, Journal
    from faulty_worker import SplitProcess, work
    from serve import options

    parser = options()
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--time-limit", type=float, default=600.0, metavar="SECONDS", help="per job")
    parser.add_argument("--inline-bytes", type=int, default=1 << 23, help="larger results by URL; 0: all of them")
    parser.add_argument("--keep", action="store_true", help="know the jobs of the server that used this folder before")
    chosen = parser.parse_args()
    if not chosen.keep:
        shutil.rmtree(chosen.folder / "jobs", ignore_errors=True)
    listening = socket.create_server(("127.0.0.1", chosen.port))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    process = SplitProcess(dict(text.split("=", 1) for text in chosen.model), chosen.absent, work)
    limits = (chosen.time_limit, chosen.inline_bytes)
    dispatcher = FaultyDispatcher(process, address, Journal(chosen.folder / "jobs"), limits)
    pairs = (text.partition(":") for text in os.environ.get("LOOPBACK_KEYS", "").split())
    control = Control(KeyedEndpoints(dispatcher, {key: kind != "untrusted" for key, _, kind in pairs}))
    how = {"http": connections.Protocol, "ws": "websockets-sansio"}
    asyncio.run(run(dispatcher, control.application, listening, chosen.folder, **how))


if __name__ == "__main__":
    sys.exit(main())
