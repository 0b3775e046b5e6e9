"""The jobs of a run that were sent to a server: written before they are waited for, kept until their work is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from nnsight_et.disk import write_file

State = Literal["sending", "accepted"]
SUFFIX = ".json"


@dataclass(frozen=True)
class Entry:
    """A job: its id, the names of the calls it carries, and whether the server has said that it has it."""

    id: str
    file: str
    """Names its files here; what a server calls a job is no file name."""
    host: str
    experiment: str
    names: tuple[str, ...]
    state: State


class Journal:
    """A folder with a file per job, and beside it the job's result once it has come home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, entry: Entry) -> None:
        """Put the entry, or its new state, on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self.folder / f"{entry.file}{SUFFIX}", (json.dumps(asdict(entry), indent=2) + "\n").encode())

    def accepted(self, entry: Entry, id: str) -> Entry:
        """The entry of a job that the server has, under the id that it gives it."""
        known = replace(entry, id=id, state="accepted")
        self.write(known)
        return known

    def find(self, host: str, names: Iterable[str]) -> Entry | None:
        """The job at `host` that carries all these calls, if there is one."""
        wanted = set(names)
        return next((one for one in self.entries() if one.host == host and wanted <= set(one.names)), None)

    def entries(self) -> Iterator[Entry]:
        """All jobs; a file that cannot be read is none."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                yield Entry(**(found | {"names": tuple(found["names"])}))
            except (OSError, ValueError, TypeError, KeyError):
                continue

    def keep(self, entry: Entry, result: bytes) -> None:
        """Put the job's result on disk."""
        write_file(self.folder / entry.file, result)

    def result(self, entry: Entry) -> bytes | None:
        """The job's result, if it has come home."""
        path = self.folder / entry.file
        return path.read_bytes() if path.is_file() else None

    def remove(self, entry: Entry) -> None:
        """Forget a job."""
        for path in (self.folder / entry.file, self.folder / f"{entry.file}{SUFFIX}"):
            path.unlink(missing_ok=True)

    def clear(self, experiment: str | None = None) -> None:
        """Forget the jobs of an experiment whose result is written; without one, all."""
        for entry in list(self.entries()):
            if experiment in (None, entry.experiment):
                self.remove(entry)
