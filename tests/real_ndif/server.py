"""Starting and ending the NDIF server: redis, an object store, a hub, Ray with ndif's controller, and ndif's API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.real_ndif.processes import end, free_ports, listens, spawn, wait

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEPT = ROOT / ".ndif"
BIN = KEPT / "venv" / "bin"
PRETENDED_BYTES = 2 * 10**9
"""The memory of the one GPU that Ray is told of: ndif's controller places models on nodes that have one."""


@dataclass(frozen=True)
class Ports:
    """Where each service listens, on 127.0.0.1."""

    api: int
    redis: int
    objects: int
    head: int
    client: int
    dashboard: int


@dataclass(frozen=True)
class RealNdif:
    """A running server: `address` is nnsight's NDIF_HOST, `hub` the HF_ENDPOINT that server and client share."""

    address: str
    hub: str
    folder: Path

    @classmethod
    @contextmanager
    def start(cls, models: Mapping[str, Path], time_limit: int = 60, dtype: str = "float32") -> Iterator[RealNdif]:
        """A server of these repositories, org/name -> folder of a model or adapter, ended when the block is left.

        A model is loaded at its first request. A job may take time_limit seconds. RuntimeError if it cannot be started.
        """
        server = launch(models, time_limit, dtype)
        try:
            yield server
        finally:
            server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs in its environment to use this server and its models."""
        home = {"HF_HOME": str(self.folder / "client"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"NDIF_HOST": self.address, "HF_ENDPOINT": self.hub, **home}

    def record(self) -> None:
        """Write down that it is running, for running()."""
        text = json.dumps({"address": self.address, "hub": self.hub, "folder": str(self.folder)})
        self._recorded.write_text(text)

    def stop(self) -> None:
        """End its processes and remove its folder."""
        end(self.folder)
        self._recorded.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _recorded(self) -> Path:
        return KEPT / f"server-{self.folder.name}.json"


def running() -> list[RealNdif]:
    """The servers that were started from this checkout and not stopped."""
    found = [json.loads(path.read_text()) for path in sorted(KEPT.glob("server-*.json"))]
    return [RealNdif(one["address"], one["hub"], Path(one["folder"])) for one in found]


def launch(models: Mapping[str, Path], time_limit: int = 60, dtype: str = "float32") -> RealNdif:
    """A server that runs until its stop(); RuntimeError if something it needs is missing or does not start."""
    if shutil.which("redis-server") is None:
        raise RuntimeError("no redis-server on PATH; install it, on Debian: apt-get install redis-server")
    if not (BIN / "ndif").exists():
        raise RuntimeError(f"no ndif in {BIN}; `make test-ndif` installs it")
    folder = Path(tempfile.mkdtemp(prefix="ndif-"))  # a short path: Ray keeps sockets below it
    ports = Ports(*free_ports(6))
    server = RealNdif(f"http://127.0.0.1:{ports.api}", "", folder)
    server.record()
    try:
        server = replace(server, hub=_start_hub(models, folder))
        server.record()
        _start_services(_environment(folder, ports, server.hub, time_limit, dtype), ports, folder, len(models))
    except BaseException:
        server.stop()
        raise
    return server


def _start_hub(models: Mapping[str, Path], folder: Path) -> str:
    address = folder / "hub.address"
    repositories = [f"{name}={Path(place).resolve()}" for name, place in models.items()]
    command = [str(BIN / "python"), "-m", "tests.real_ndif.hub", str(address), *repositories]
    spawn("hub", command, {**os.environ, "PYTHONPATH": str(ROOT)}, folder)
    wait("hub", lambda: address.exists() and address.read_text() != "", folder)
    return address.read_text()


def _environment(folder: Path, ports: Ports, hub: str, time_limit: int, dtype: str) -> dict[str, str]:
    """What every service starts with. Of this project only on_server/ can be imported there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NDIF_", "RAY_"))}
    kept |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(HERE / "on_server")}
    hub_settings = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    ndif = {
        "HOME": str(folder / "ndif"),
        "REDIS_URL": f"redis://127.0.0.1:{ports.redis}",
        "OBJECT_STORE_URL": f"http://127.0.0.1:{ports.objects}",
        "API_PORT": str(ports.api),
        "API_URL": f"http://127.0.0.1:{ports.api}",
        "RAY_ADDRESS": f"ray://127.0.0.1:{ports.client}",
        "MODEL_IMPORT_PATH": "cpu_actor.CpuActor",
        "DEFAULT_DTYPE": dtype,
        "DEFAULT_PADDING_BIAS": "0",  # bytes of headroom per model
        "DEFAULT_EXECUTION_TIMEOUT_SECONDS": str(time_limit),
        "SANDBOX_POOL_SIZE": "1",  # processes kept ready for untrusted jobs
        "AUTOSCALING_MAX_REPLICAS": "1",
        "MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
        "STATUS_TTL_S": "1",
    }
    settings = {f"NDIF_{name}": value for name, value in ndif.items()}
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    # Without the first of these Ray listens on all of the machine's addresses, whatever address it is given.
    ray = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    ray["RAY_AUTH_MODE"] = "disabled"  # NDIF sends no token, even where another Ray has left one at home
    return kept | hub_settings | settings | threads | ray


def _start_services(environment: dict[str, str], ports: Ports, folder: Path, models: int) -> None:
    """In the order of their needs; the API retries until Ray is there, so that it starts beside it."""
    quiet = ["--save", "", "--appendonly", "no"]
    redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(ports.redis), "--dir", str(folder), *quiet]
    spawn("redis", redis, environment, folder)
    spawn("objects", [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(ports.objects)], environment, folder)
    spawn("ray", _ray_command(ports, folder, cpus=models + 2), environment, folder)
    wait("redis", lambda: listens(ports.redis), folder)
    api = environment | {"GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{ports.api}"}
    spawn("api", [str(BIN / "ndif"), "start", "--foreground", "api"], api, folder)
    wait("objects", lambda: listens(ports.objects), folder)
    wait("ray", lambda: listens(ports.client) and _answers(f"http://127.0.0.1:{ports.dashboard}/api/version"), folder)
    controller = [str(BIN / "python"), "-m", "ndif.services.ray.deployments.controller.controller"]
    head = {"RAY_ADDRESS": f"127.0.0.1:{ports.head}", "NDIF_SERVICE": "ray"}
    launched = subprocess.run(controller, env=environment | head, cwd=folder, capture_output=True, text=True)
    if launched.returncode:
        raise RuntimeError(f"ndif's controller did not start:\n{launched.stderr[-3000:]}")
    wait("api", lambda: _answers(f"http://127.0.0.1:{ports.api}/connected"), folder)


def _ray_command(ports: Ports, folder: Path, cpus: int) -> list[str]:
    """One node that says it has a GPU; the controller takes one CPU of it, every model one."""
    memory = {"cuda_memory_bytes": PRETENDED_BYTES, "cpu_memory_bytes": PRETENDED_BYTES}
    where = ["--node-ip-address=127.0.0.1", f"--port={ports.head}", f"--ray-client-server-port={ports.client}"]
    has = [f"--num-cpus={cpus}", "--num-gpus=1", f"--resources={json.dumps({'head': 10, **memory})}"]
    dashboard = ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports.dashboard}"]
    rest = ["--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={folder / 'ray'}"]
    return [str(BIN / "ray"), "start", "--head", "--block", *where, *has, *dashboard, *rest]


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False
