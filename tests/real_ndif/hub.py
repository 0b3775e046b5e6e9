"""The loopback hub as a process of its own: serves folders as repositories until it is ended.

`python -m tests.real_ndif.hub FILE ORG/NAME=FOLDER ...` writes the hub's address into FILE when it is ready.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.helpers.loopback_hub import serving


def main(file: str, *repositories: str) -> None:
    """Serve until a signal ends the process."""
    pairs = [one.split("=", 1) for one in repositories]
    with serving({name: Path(folder) for name, folder in pairs}) as address:
        Path(file).write_text(address)
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
