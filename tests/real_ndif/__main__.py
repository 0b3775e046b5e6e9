"""`python -m tests.real_ndif start ORG/NAME=FOLDER ...` starts an NDIF server on this machine; `... stop` ends it."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.real_ndif.server import launch, running


def main() -> None:
    """Start a server and print what a client's environment needs, or stop all that were started from this checkout."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_ndif", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start a server, and print the environment of its clients")
    start.add_argument("models", nargs="+", metavar="ORG/NAME=FOLDER", help="models and adapters it serves")
    start.add_argument("--time-limit", type=int, default=600, help="seconds a job may take (600)")
    start.add_argument("--dtype", default="float32", help="of the weights (float32)")
    commands.add_parser("stop", help="stop the servers that were started from this checkout")
    options = parser.parse_args()
    if options.command == "stop":
        for server in running():
            server.stop()
            print(f"stopped {server.address}")
        return
    models = {name: Path(folder) for name, folder in (one.split("=", 1) for one in options.models)}
    for name, value in launch(models, options.time_limit, options.dtype).environment.items():
        print(f"export {name}={value}")


if __name__ == "__main__":
    main()
