"""Files that exist only when they are complete, and run directories with one writer.

A file is written under a temporary name beside its place, flushed to the disk, and renamed; then its folder is flushed.
After a crash or a power cut there is the whole file or none.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nnsight_et.errors import ResultError

TEMPORARY = ".writing-"
LOCK, HOLDER = ".lock", ".holder"


def write_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, all of it or nothing."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            _write_flushed(temporary, content)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Put a folder with `files` at `path`, all of it or nothing, in place of what is there."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, earlier = _beside(path), _beside(path)
        try:
            temporary.mkdir()
            for name, content in files.items():
                _write_flushed(temporary / name, content)
            _flush_folder(temporary)
            if path.exists():
                path.rename(earlier)
            temporary.rename(path)
        finally:
            for leftover in (temporary, earlier):
                _remove(leftover)
        _flush_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what writers that are gone left unfinished in `folder` and its subfolders one level down."""
    for leftover in [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"*/{TEMPORARY}*")]:
        host, _, rest = leftover.name.removeprefix(TEMPORARY).rpartition("-")[0].rpartition("-")
        if host == _host() and rest.isdecimal() and not _alive(int(rest)):
            _remove(leftover)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; ResultError naming the holder if another process has it."""
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ResultError(f"{folder}: {_holder(folder)} is running in it; wait for it, or stop it") from None
    try:
        write_file(folder / HOLDER, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _beside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _host() -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())[:64]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make names in `folder` survive a power cut, where the system can open folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A disk's refusal as a ResultError that names the path."""
    try:
        yield
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error.strerror}); earlier results are intact") from error
