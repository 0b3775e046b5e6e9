"""The server as a program: `python serve.py --folder STATE [--model NAME=FOLDER] ...` writes STATE/address when up.

It listens on 127.0.0.1 alone and executes what it is sent. It stops on SIGTERM, and when its standard input closes if
`--until-input-ends` says so, which is how it ends with whoever started it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where jobs, results and the address are kept")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="a model or an adapter")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY[:trusted|untrusted]",
        help="none, nor in LOOPBACK_KEYS: no keys",
    )
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--time-limit", type=float, default=600.0, metavar="SECONDS", help="per job")
    parser.add_argument("--inline-bytes", type=int, default=1 << 23, help="larger results by URL; 0: all of them")
    parser.add_argument("--keep", action="store_true", help="know the jobs of the server that used this folder before")
    parser.add_argument("--absent", default="nnsight_et", help="a package that jobs cannot import")
    parser.add_argument("--until-input-ends", action="store_true", help="stop when standard input closes")
    chosen = parser.parse_args()
    chosen.key += os.environ.get("LOOPBACK_KEYS", "").split()
    return chosen


def main() -> None:
    """Serve until stopped."""
    from application import serve  # not at the top: the job processes import this file too, and need none of it

    chosen = options()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    (chosen.folder / "address").unlink(missing_ok=True)
    if not chosen.keep:
        shutil.rmtree(chosen.folder / "jobs", ignore_errors=True)
    listening = socket.create_server(("127.0.0.1", chosen.port))
    serve(chosen, listening)


if __name__ == "__main__":
    sys.exit(main())
