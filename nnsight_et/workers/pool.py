"""Workers as a run has them, on a cluster of Ray: how many, what they are sent, what comes back."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import Any

import psutil
import torch

from nnsight_et.core.errors import ExperimentError, ManifestError, NnsightEtError
from nnsight_et.interventions.calls import Call, to_device
from nnsight_et.models.files import Files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model

Attempt = Callable[[Call, Model], Any]
"""A function of a module, which a worker imports by its name."""


@dataclass(frozen=True)
class LoadSpec:
    """A model as a worker loads it: its files are at the same path on every machine."""

    files: Files
    dtype: str
    device: str
    attention: str

    def model(self) -> Model:
        """The model in memory; UnsupportedModel if it cannot be loaded."""
        return load_model(self.files, self.dtype, self.device, self.attention)


@dataclass(frozen=True)
class RaisedError:
    """An error of a call, as the run is to raise it: without the frames it came through, which do not travel."""

    kind: type[NnsightEtError]
    message: str
    notes: tuple[str, ...]

    def error(self) -> NnsightEtError:
        """The error itself."""
        error = self.kind(self.message)
        for note in self.notes:
            error.add_note(note)
        return error


class Worker:
    """A process that carries out calls one after the other; it has one model in memory at a time."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)  # other numbers of threads give other last bits
        self._place: LoadSpec | None = None
        self._model: Model | None = None

    def outcome(self, place: LoadSpec, attempt: Attempt, call: Call) -> Any:
        """What the attempt gives, its tensors on the CPU; or Raised."""
        try:
            if self._model is None or self._place != place:
                self._model = None
                gc.collect()
                self._model, self._place = place.model(), place
            return to_device(attempt(call, self._model), torch.device("cpu"))
        except NnsightEtError as error:
            return RaisedError(type(error), str(error), tuple(getattr(error, "__notes__", ())))


ADDRESS = "RAY_ADDRESS"
GRACE = 5.0  # seconds for processes to end by themselves
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for: this machine is no part of a cluster
    "RAY_gcs_server_port_wait_time_s": "120",  # a busy machine takes long to start it
}


@contextmanager
def cluster(count: int) -> Iterator[None]:
    """Connected to the cluster at RAY_ADDRESS, or to a Ray of this machine that ends with the block."""
    os.environ.update(QUIET)
    with ExitStack() as held:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if ADDRESS not in os.environ:
            os.environ.update(LOOPBACK)
            folder = held.enter_context(TemporaryDirectory(prefix="et-ray-", ignore_cleanup_errors=True))
            options |= {"address": "local", "num_cpus": count, "include_dashboard": False, "_temp_dir": folder}
        import ray

        handler = signal.getsignal(signal.SIGTERM)
        held.callback(_shut_down, options.get("_temp_dir"))
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            where = f"{ADDRESS}={os.environ[ADDRESS]}" if ADDRESS in os.environ else "--workers"
            raise ManifestError(
                f"{where}: Ray cannot be started or reached ({said}); accepted: a cluster with this version of Ray"
            ) from error
        finally:
            if current_thread() is main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place
        yield


def _shut_down(folder: str | None) -> None:
    """Leave the cluster; wait until all processes are gone that were started here, with files in that folder."""
    import ray

    children = psutil.Process().children() if folder else []
    own: list[psutil.Process] = []
    for child in children:
        with suppress(psutil.Error):  # it has ended by now
            if any(str(folder) in word for word in child.cmdline()):
                own += [child, *child.children(recursive=True)]
    ray.shutdown()
    for left in psutil.wait_procs(own, timeout=GRACE)[1]:
        with suppress(psutil.Error):
            left.kill()


INSTALL = "pip install 'nnsight-et[ray]'"
TRIES = 4  # of a call whose worker dies
AHEAD = 2  # calls sent per worker: the next one waits there while one is carried out


class Workers:
    """So many workers, started when the first call comes; each has a GPU to itself if the device is one."""

    def __init__(self, count: int, device: str) -> None:
        self.count, self.device = count, device
        self._actors: list[Any] = []
        self._going: list[list[Any]] = []  # per worker what it was sent and has not done
        self._held = ExitStack()

    def results(self, place: LoadSpec, attempt: Attempt, calls: Iterable[Call]) -> Iterator[Any]:
        """What `attempt` gives of each call, in their order.

        A call whose worker dies is carried out again by a new one. An error of a call is raised in its place;
        ExperimentError if workers keep dying at it.
        """
        waiting: deque[Any] = deque()
        for call in calls:
            waiting.append(self._send(place, attempt, call))
            if len(waiting) == AHEAD * self.count:
                yield _outcome(waiting.popleft())
        while waiting:
            yield _outcome(waiting.popleft())

    def stop(self) -> None:
        """End the workers, and Ray where it was started for them."""
        self._actors, self._going = [], []
        self._held.close()

    def _send(self, place: LoadSpec, attempt: Attempt, call: Call) -> Any:
        """A reference to what the least busy worker will find."""
        import ray

        if not self._actors:
            self._start()
        self._going = [some and list(ray.wait(some, num_returns=len(some), timeout=0)[1]) for some in self._going]
        free = min(range(self.count), key=lambda index: len(self._going[index]))
        reference = self._actors[free].outcome.remote(place, attempt, call)
        self._going[free].append(reference)
        return reference

    def _start(self) -> None:
        import ray

        self._held.enter_context(cluster(self.count))
        needed = "GPU" if self.device == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(needed, 0))
        if there < self.count:
            raise ManifestError(
                f"--workers ray:{self.count}: found {there} {needed}s; accepted: at most one worker for each"
            )
        made = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=1 if needed == "GPU" else 0,
            max_restarts=-1,
            max_task_retries=TRIES - 1,
            scheduling_strategy="SPREAD",
        )
        self._actors = [made.remote(torch.get_num_threads()) for _ in range(self.count)]
        self._going = [[] for _ in self._actors]


@contextmanager
def start_workers(wanted: str | None, device: str) -> Iterator[Workers | None]:
    """The workers that `wanted` (ray:4) means, until the end of the block; None where the run itself does the work."""
    if wanted is None:
        yield None
        return
    workers = Workers(_count(wanted), device)
    try:
        yield workers
    finally:
        workers.stop()


def check_workers(wanted: str | None, backend: str, device: str) -> None:
    """Raise ManifestError if these workers cannot be had for models on that backend and device."""
    if wanted is None:
        return
    _count(wanted)
    if backend != "local":
        raise ManifestError(f"--workers {wanted}: models run on {backend}; accepted: backend: local")
    if device.startswith("cuda:") or device == "balanced":
        several = "all GPUs" if device == "balanced" else "one GPU"
        raise ManifestError(f"--workers {wanted}: device: {device} is {several}; accepted: cuda, cpu, auto")
    if find_spec("ray") is None:
        raise ManifestError(f"--workers {wanted}: Ray is not installed; accepted: {INSTALL}")


def on_cluster(wanted: str | None) -> bool:
    """Whether the workers run on a cluster, whose devices are not those of this machine."""
    return wanted is not None and ADDRESS in os.environ


def _count(wanted: str) -> int:
    found = re.fullmatch(r"ray:([1-9]\d{0,3})", wanted)
    if found is None:
        raise ManifestError(f"--workers: found {wanted!a}; accepted: ray: and a number of workers, such as ray:4")
    return int(found[1])


def _outcome(reference: Any) -> Any:
    import ray
    from ray.exceptions import OutOfMemoryError, RayActorError

    try:
        found = ray.get(reference)
    except (RayActorError, OutOfMemoryError) as error:
        said = str(error).strip().splitlines()[0]
        raise ExperimentError(
            f"--workers: {TRIES} workers in a row died at one call ({said}); accepted: fewer workers, or a smaller "
            "memory:, where memory ran out"
        ) from None
    if isinstance(found, RaisedError):
        raise found.error()
    return found
