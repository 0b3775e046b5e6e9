"""Services of one server: started each in a session of its own, and ended by the ids that were recorded then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

GRACE = 5.0  # seconds between asking a process to end and ending it
_started: list[subprocess.Popen] = []  # kept: an object that is collected before its process ends warns


def spawn(name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """Start a service whose log and process id are kept in the server's folder."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    (folder / f"{name}.pid").write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")


def wait(name: str, ready: Callable[[], bool], folder: Path, seconds: float = 90) -> None:
    """Return when the service is ready; RuntimeError with the end of its log if it ends, or is not in time."""
    end, pid = time.monotonic() + seconds, _recorded(folder / f"{name}.pid")[0]
    while not ready():
        if time.monotonic() > end or not _runs(pid):
            log = (folder / f"{name}.log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{name} {'did not become ready' if _runs(pid) else 'ended'}; its log:\n{log}")
        time.sleep(0.1)


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports nobody listens at now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def end(folder: Path) -> None:
    """End every process of the server in this folder, children included."""
    found = list(_members(folder))
    sockets = {word for process in found for word in _arguments(process) if word.endswith(".sock")}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(found, GRACE)
        _started[:] = [process for process in _started if process.poll() is None]
        found = list(_members(folder))
    for path in sockets:  # the sandbox's processes leave theirs in the machine's temporary folder
        if Path(path).name.startswith("sbx-"):
            Path(path).unlink(missing_ok=True)


def _members(folder: Path) -> Iterator[psutil.Process]:
    """All processes of the services' sessions. Nothing else tells: redis and Ray overwrite their own environment."""
    recorded = [_recorded(path) for path in folder.glob("*.pid")]
    sessions = {pid for pid, created in recorded if _created(pid) in (None, created)}
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) in sessions:
                yield process


def _recorded(file: Path) -> tuple[int, float]:
    """A service's process id, which is its session's id, and when it was created."""
    pid, created = file.read_text().split()
    return int(pid), float(created)


def _created(pid: int) -> float | None:
    """When the process was created, so that an id that was given out again is not taken for the old one."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).create_time()
    return None


def _arguments(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
