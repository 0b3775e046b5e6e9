"""Files that exist only when they are complete, and run directories with one writer.

A file is written under a temporary name beside its place, flushed to the disk, and renamed; then its folder is flushed,
and so is every folder that was made for it. After a crash or a power cut there is the whole file or none, and what was
written before is there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnsight_et.core.errors import FolderError, ManifestError

TEMPORARY = ".writing-"
LOCK, HOLDER = ".lock", ".holder"
ABANDONED = 86400.0  # seconds without a change: so long no file is being written


def write_file(path: Path, content: bytes) -> None:
    """Put `content` at `path`, all of it or nothing."""
    with _naming_path_in_errors(path):
        _make(path.parent)
        temporary = _temporary_path(path)
        try:
            _write_and_flush(temporary, content)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Put a folder with `files` at `path`, all of it or nothing, in place of what is there."""
    with _naming_path_in_errors(path):
        _make(path.parent)
        temporary, earlier = _temporary_path(path), _temporary_path(path)
        try:
            temporary.mkdir()
            for name, content in files.items():
                _write_and_flush(temporary / name, content)
            _flush_folder(temporary)
            if path.exists():
                path.rename(earlier)
            temporary.rename(path)
            _flush_folder(path.parent)  # before anything of the earlier one is removed
        finally:
            if earlier.exists() and not path.exists():
                earlier.rename(path)
            for leftover in (temporary, earlier):
                remove(leftover)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Put a mapping at `path` as JSON, with its digest under "digest"."""
    text = json.dumps({**data, "digest": _digest(data)}, indent=2, sort_keys=True) + "\n"
    write_file(path, text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping that write_json put at `path`; None if there is none, or it is not what was written."""
    try:
        data = json.loads(path.read_bytes())
        digest = data.pop("digest")
        return data if digest == _digest(data) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(data: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=10).hexdigest()


def sweep(folder: Path) -> None:
    """Remove what writers that are gone left unfinished in `folder` and its subfolders one level down: those of this
    machine at once, others after a day."""
    for leftover in [*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"*/{TEMPORARY}*")]:
        host, _, rest = leftover.name.removeprefix(TEMPORARY).rpartition("-")[0].rpartition("-")
        if (host == _host() and rest.isdecimal() and not _alive(int(rest))) or _age(leftover) > ABANDONED:
            remove(leftover)


@contextmanager
def one_writer(folder: Path) -> Generator[None, None, None]:
    """Hold `folder` for this process; FolderError naming the holder if another process has it."""
    with _naming_path_in_errors(folder):
        _make(folder)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderError(f"{folder}: {_holder(folder)} is running in it; wait for it, or stop it") from None
    try:
        remove(folder / HOLDER)  # of a run that was killed
        write_file(folder / HOLDER, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        remove(folder / HOLDER)
        lock.release()


def _holder(folder: Path) -> str:
    """Who has the lock: not the one before, whose file may still be there."""
    try:
        holder = json.loads((folder / HOLDER).read_bytes())
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
    if host == socket.gethostname() and not _alive(pid):
        return "another process"
    return f"process {pid} on {ascii(host)[1:-1]}"


def _temporary_path(path: Path) -> Path:
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


def _age(path: Path) -> float:
    """Seconds since its last change; 0 if it is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _make(folder: Path) -> None:
    """The folder and those above it, where they are missing, with names that survive a power cut."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        with suppress(PermissionError):  # a folder that may not be read
            _flush_folder(one.parent)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or nothing."""
    with _naming_path_in_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_and_flush(path: Path, content: bytes) -> None:
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
def _naming_path_in_errors(path: Path) -> Generator[None, None, None]:
    """A disk's refusal as a FolderError that names the path; ManifestError where a file is in the place of a folder."""
    try:
        yield
    except OSError as error:
        if file := next((one for one in path.parents if one.is_file()), None):
            raise ManifestError(f"{path}: {file} is a file; accepted: a folder, or a place for a new one") from None
        if isinstance(error, IsADirectoryError):
            raise ManifestError(f"{path}: a folder is there; accepted: the name of a file") from None
        raise FolderError(f"{path}: cannot be written ({error.strerror}); earlier results are intact") from error
