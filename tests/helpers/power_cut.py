"""A disk that loses what was not flushed: every moment of some writing, and what a power cut at that moment may leave.

A file has the bytes, and a folder the names, that it had when it was last flushed; of what came later any part may be
there or not, a rename whole or not at all.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir")
Folders = dict[int, dict[str, int]]  # folder -> the names in it, and what they are of: folders are negative, the root 0
Files = dict[int, bytes]


@dataclass(frozen=True)
class Moment:
    """What is on the disk, and what is surely on it."""

    folders: Folders
    files: Files
    sure_folders: Folders
    sure_files: Files

    def lost(self) -> Moment:
        """What is left if all is lost that can be."""
        return Moment(self.sure_folders, self.sure_files, self.sure_folders, self.sure_files)

    def empty(self) -> Moment:
        """What is left if all names are kept, and the bytes of no file that was not flushed."""
        return Moment(self.folders, self.sure_files, self.folders, self.sure_files)

    def some(self, random: Random) -> Moment:
        """What is left if some of it is lost, by chance."""
        folders = {one: random.choice((self.folders, self.sure_folders)).get(one, {}) for one in self.folders}
        files = {one: self._bytes(one, random) for one in self.files}
        return Moment(self.sure_folders | folders, self.sure_files | files, {}, {})

    def _bytes(self, one: int, random: Random) -> bytes:
        sure, now = self.sure_files.get(one, b""), self.files[one]
        return sure if sure == now else random.choice((sure, now[: len(now) // 2], bytes(len(now)), now))

    def put(self, folder: Path, one: int = 0) -> None:
        """Write it to a folder."""
        folder.mkdir(parents=True)
        for name, other in self.folders.get(one, {}).items():
            if other < 0:
                self.put(folder / name, other)
            else:
                (folder / name).write_bytes(self.files.get(other, b""))


@dataclass
class Disk:
    """What happens below `root`, seen before every change and after every flush."""

    root: Path
    moments: list[Moment] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    """Inode -> what it is called here; an inode that is used again has another number."""
    sure_folders: Folders = field(default_factory=dict)
    sure_files: Files = field(default_factory=dict)
    _made: int = 0
    _read: dict[tuple[int, int, int], bytes] = field(default_factory=dict)

    def look(self) -> tuple[Folders, Files]:
        """What is there now; one more moment, unless nothing has changed."""
        folders: Folders = {}
        files: Files = {}
        known, self.numbers = self.numbers, {self.root.stat().st_ino: 0}
        self._below(self.root, 0, folders, files, known)
        moment = Moment(folders, files, dict(self.sure_folders), dict(self.sure_files))
        if not self.moments or self.moments[-1] != moment:
            self.moments.append(moment)
        return folders, files

    def _below(self, folder: Path, number: int, folders: Folders, files: Files, known: dict[int, int]) -> None:
        folders[number] = {}
        for entry in os.scandir(folder):
            status = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            one = known.get(status.st_ino, 0)
            if one == 0 or (one < 0) != is_folder:
                self._made += 1
                one = -self._made if is_folder else self._made
            self.numbers[status.st_ino] = folders[number][entry.name] = one
            if is_folder:
                self._below(Path(entry), one, folders, files, known)
            else:
                version = (one, status.st_size, status.st_mtime_ns)
                if version not in self._read:
                    self._read[version] = Path(entry).read_bytes()
                files[one] = self._read[version]

    def flushed(self, descriptor: int) -> None:
        """What the descriptor is of is surely on the disk as it is now."""
        folders, files = self.look()
        one = self.numbers.get(os.fstat(descriptor).st_ino)
        if one in folders:
            self.sure_folders[one] = dict(folders[one])
        elif one in files:
            self.sure_files[one] = files[one]

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """See every change from now on."""

        def first(whole: Callable, changes: Callable[..., bool] = lambda *_, **__: True) -> Callable:
            def seen(*arguments: Any, **options: Any) -> Any:
                if changes(*arguments, **options):
                    self.look()
                return whole(*arguments, **options)

            return seen

        whole = os.fsync

        def fsync(descriptor: int) -> None:
            self.look()
            whole(descriptor)
            self.flushed(descriptor)

        for name in CHANGES:
            monkeypatch.setattr(os, name, first(getattr(os, name)))
        monkeypatch.setattr(os, "open", first(os.open, lambda _, flags, *__, **___: bool(flags & os.O_CREAT)))
        monkeypatch.setattr(
            io, "open", first(io.open, lambda _, mode="r", *__, **___: set(mode) & set("wxa+") != set())
        )
        monkeypatch.setattr(os, "fsync", fsync)
        self.look()
        self.sure_folders, self.sure_files = self.look()  # what was there before was flushed long ago
        self.moments.clear()

    def survivors(self, random: Random, mixed: int) -> Iterator[Moment]:
        """What may be left, by cuts at every moment: all lost, all names kept, and so many mixtures of both."""
        for moment in self.moments:
            yield moment.lost()
            yield moment.empty()
            for _ in range(mixed):
                yield moment.some(random)
