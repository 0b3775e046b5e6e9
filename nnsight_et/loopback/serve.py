"""The server as a program: `python serve.py --folder STATE [--model NAME=FOLDER] ...` writes STATE/address when up.

It listens on 127.0.0.1 alone and executes what it is sent. It stops on SIGTERM, and when its standard input closes,
which is how it ends with whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the address is written")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="a model or an adapter")
    parser.add_argument("--absent", default="nnsight_et", help="a package that jobs cannot import")
    return parser


def main() -> None:
    """Serve until stopped."""
    # not at the top: the job process imports this file too, and needs none of it
    from application import Endpoints, run
    from dispatch import Dispatcher, Process
    from starlette.applications import Starlette

    chosen = options().parse_args()
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    dispatcher = Dispatcher(Process(dict(text.split("=", 1) for text in chosen.model), chosen.absent), address)
    asyncio.run(run(dispatcher, Starlette(routes=Endpoints(dispatcher).routes()), listening, chosen.folder))


if __name__ == "__main__":
    sys.exit(main())
