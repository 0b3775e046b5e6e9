"""The jobs of a run that were sent to a server: written before they are waited for, kept until their work is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from nnsight_et.results.disk import TEMPORARY, read_json, write_file, write_json

State = Literal["sending", "accepted"]
SUFFIX = ".json"
DIGEST = 16  # bytes in front of a result


@dataclass(frozen=True)
class JournalEntry:
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

    def write(self, entry: JournalEntry) -> None:
        """Put the entry, or its new state, on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{entry.file}{SUFFIX}", asdict(entry))

    def accept(self, entry: JournalEntry, id: str) -> JournalEntry:
        """The entry of a job that the server has, under the id that it gives it."""
        known = replace(entry, id=id, state="accepted")
        self.write(known)
        return known

    def find(self, host: str, names: Iterable[str]) -> JournalEntry | None:
        """The job at `host` that carries all these calls, if there is one."""
        wanted = set(names)
        return next((one for one in self.entries() if one.host == host and wanted <= set(one.names)), None)

    def entries(self) -> Iterator[JournalEntry]:
        """All jobs; a file that is damaged or another's is none."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            found = read_json(path)
            if found is not None and found.keys() == {one.name for one in fields(JournalEntry)}:
                entry = JournalEntry(**found)
                if path.name == f"{entry.file}{SUFFIX}":
                    yield replace(entry, names=tuple(entry.names))

    def keep(self, entry: JournalEntry, result: bytes) -> None:
        """Put the job's result on disk, behind its digest."""
        write_file(self.folder / entry.file, _digest(result) + result)

    def result(self, entry: JournalEntry) -> bytes | None:
        """The job's result, if it has come home whole."""
        path = self.folder / entry.file
        content = path.read_bytes() if path.is_file() else b""
        return content[DIGEST:] if content and content[:DIGEST] == _digest(content[DIGEST:]) else None

    def sweep(self) -> list[Path]:
        """Remove what is no whole entry or result, so that its work is done anew; which files these were."""
        entries = list(self.entries())
        sound = {self.folder / f"{one.file}{SUFFIX}" for one in entries}
        sound |= {self.folder / one.file for one in entries if self.result(one) is not None}
        others = (path for path in self.folder.glob("*") if path.is_file() and not path.name.startswith(TEMPORARY))
        damaged = sorted(set(others) - sound)
        for path in damaged:
            path.unlink()
        return damaged

    def remove(self, entry: JournalEntry) -> None:
        """Forget a job."""
        for path in (self.folder / entry.file, self.folder / f"{entry.file}{SUFFIX}"):
            path.unlink(missing_ok=True)

    def clear(self, experiment: str | None = None) -> None:
        """Forget the jobs of an experiment whose result is written; without one, all."""
        for entry in list(self.entries()):
            if experiment in (None, entry.experiment):
                self.remove(entry)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()
