"""A cluster of Ray: the one at RAY_ADDRESS, or one of this machine that is there for a block."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from typing import Any

import psutil

from nnsight_et.core.errors import ManifestError

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
                f"{where}: Ray cannot be had ({said}); accepted: a cluster of this Ray's version"
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
