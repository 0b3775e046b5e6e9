"""Cells on workers of Ray: the bytes of a serial run, though one is killed; what is refused; nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from nnsight_et_cli import app
from typer.testing import CliRunner

from nnsight_et.core.errors import ExperimentError, ManifestError, UnsupportedModel
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import load
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import RunOptions, run
from nnsight_et.workers import pool
from nnsight_et.workers.pool import LoadSpec, Workers, check_workers
from tests.cli.test_resume import RUN
from tests.helpers.methods_study import EVERYTHING, models_in, steps
from tests.helpers.small_study import cells, fresh_study, scores
from tests.helpers.tiny_model import hf_llama, tokenizer

with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No cluster; Ray's files in a folder of this test, whose path is short enough for its sockets."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in (*pool.QUIET, *pool.LOOPBACK):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    with tempfile.TemporaryDirectory(prefix="et-test-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # workers import this file
        yield Path(folder)
        monkeypatch.undo()


def ray_processes() -> list[psutil.Process]:
    """Those this process has started, and theirs."""
    return psutil.Process().children(recursive=True)


def worker_processes() -> list[psutil.Process]:
    found = []
    for one in ray_processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [one] if "".join(one.cmdline()).startswith("ray::Worker") else []
    return found


def exposed() -> set[str]:
    """Addresses that Ray's processes listen at beside the loopback interface."""
    heard = set()
    for process in (psutil.Process(), *ray_processes()):
        with suppress(psutil.NoSuchProcess):
            ports = process.net_connections("inet")
            heard |= {one.laddr.ip for one in ports if one.status == psutil.CONN_LISTEN}
    assert heard
    return heard - {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@with_ray
@pytest.mark.filterwarnings("ignore:Exception ignored in.*Popen:pytest.PytestUnraisableExceptionWarning")  # Ray 2.50's
def test_two_workers_give_the_bytes_of_a_serial_run_though_one_is_killed(finished, tmp_path, here):
    root = fresh_study(tmp_path)
    before = {one.pid for one in ray_processes()}
    going = run(plan(load(root / "study.yaml")), root / "runs", options=RunOptions(workers="ray:2"))
    made = [next(going)]
    assert list(here.glob("et-ray-*"))
    assert exposed() == set()
    victim = worker_processes()[0]
    os.kill(victim.pid, signal.SIGKILL)
    for step in going:
        made.append(step)
        if step.experiment == "table1":
            left = worker_processes()
    assert left
    assert victim not in left
    assert scores(root) == scores(finished)
    assert {path.name for path in cells(root)} == {path.name for path in cells(finished)}
    for path in cells(root):
        assert path.read_bytes() == (finished / path.relative_to(root)).read_bytes()
    assert {one.pid for one in ray_processes()} == before
    assert not list(here.glob("et-ray-*"))


def told(root: Path, **options) -> tuple[dict, dict]:
    """Every experiment's scores as bytes with its summary and self-checks, and the cells, of a run of all methods."""
    steps(models_in(root), EVERYTHING, **options)
    found = {}
    for path in root.glob("runs/methods/*/*/result.json"):
        header = json.loads(path.read_text())
        made = (path.parent / "scores.safetensors").read_bytes()
        checks = [one for one in header["self_check"]["checks"] if one["check"] != "weights"]  # workers hold the models
        found[path.parent.name] = (made, header["summary"], checks, header["identity"])
    return found, {path.name: path.read_bytes() for path in root.glob("runs/store/*/*.safetensors")}


@with_ray
@pytest.mark.slow
def test_every_method_finds_the_same_bytes_and_makes_the_same_checks(tmp_path, here):
    for name in ("serial", "shared"):
        (tmp_path / name).mkdir()
    assert told(tmp_path / "shared", options=RunOptions(workers="ray:2")) == told(tmp_path / "serial")


def test_no_worker_is_started_where_every_result_is_there(finished, monkeypatch):
    def refuse(*_args):
        pytest.fail("workers were started")

    monkeypatch.setattr("nnsight_et.runner.run.check_workers", lambda *_: None)
    monkeypatch.setattr(Workers, "_start", refuse)
    steps = list(run(plan(load(finished / "study.yaml")), finished / "runs", options=RunOptions(workers="ray:2")))
    assert [step.reused for step in steps] == [1, 1]


REFUSED = [
    ("ray:0", "local", "auto", "--workers: found 'ray:0'; accepted: ray: and a number of workers, such as ray:4"),
    ("4", "local", "auto", "--workers: found '4'; accepted: ray: and a number of workers, such as ray:4"),
    ("ray:2", "simulate", "auto", "--workers ray:2: models run on simulate; accepted: backend: local"),
    ("ray:2", "local", "cuda:1", "--workers ray:2: device: cuda:1 is one GPU; accepted: cuda, cpu, auto"),
    ("ray:2", "local", "balanced", "--workers ray:2: device: balanced is all GPUs; accepted: cuda, cpu, auto"),
]


@pytest.mark.parametrize(("wanted", "backend", "device", "message"), REFUSED)
def test_what_cannot_be_had_is_refused(wanted, backend, device, message):
    with pytest.raises(ManifestError) as raised:
        check_workers(wanted, backend, device)
    assert str(raised.value) == message


def test_without_ray_the_command_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "find_spec", lambda _: None)
    root = fresh_study(tmp_path)
    command = ["run", str(root / "study.yaml"), "--out", str(root / "runs"), "--workers", "ray:2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert done.stderr == "--workers ray:2: Ray is not installed; accepted: pip install 'nnsight-et[ray]'\n"
    assert not (root / "runs").exists()


def weights_of(call: Call, model):
    """What a test asks of a worker: the first weights, its threads, and whatever the call does."""
    weight = model.nn.lm_head.weight[0, :3]
    return {"weight": weight, "threads": torch.get_num_threads(), "number": call.function(*call.arguments)}


def number(given: int) -> int:
    return given


def fail(message: str):
    error = ExperimentError(message)
    error.add_note("a note")
    raise error


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def place(tmp_path: Path):
    """A model on disk, as a worker is to load it."""
    hf_llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return partial(LoadSpec, download_files("one", ModelSpec(str(tmp_path / "model"))))


@with_ray
@pytest.mark.slow
def test_calls_come_back_in_order_from_workers_that_die_and_errors_as_what_they_are(place, tmp_path, here):
    model, two = place("float32", "cpu", "sdpa"), Workers(2, "cpu")

    def outcomes(*calls: Call):
        return list(two.results(model, weights_of, calls))

    try:
        made = outcomes(*(Call(number, (index,)) for index in range(9)))
        assert [one["number"] for one in made] == list(range(9))
        assert {one["threads"] for one in made} == {torch.get_num_threads()}
        assert all(torch.equal(one["weight"], hf_llama().lm_head.weight[0, :3]) for one in made)
        with pytest.raises(ExperimentError) as raised:
            outcomes(Call(number, (1,)), Call(fail, ("no such thing",)))
        assert str(raised.value) == "no such thing"
        assert raised.value.__notes__ == ["a note"]
        assert outcomes(Call(die_once, (str(tmp_path / "marker"),)))[0]["number"] == "lived"
        with pytest.raises(ExperimentError, match=r"--workers: 4 workers in a row died at one call"):
            outcomes(Call(die, ()))
        with pytest.raises(UnsupportedModel, match=r"has no flash attention"):
            list(two.results(place("float32", "cpu", "flash"), weights_of, [Call(number, (1,))]))
        with pytest.raises(TypeError, match="number"):
            outcomes(Call(number, ()))
    finally:
        two.stop()
    assert not ray_processes()


@with_ray
@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(os.killpg, 130), (os.kill, 143)])
def test_a_run_that_is_stopped_leaves_no_process(tmp_path, here, stop, code):
    """Ctrl-C reaches all processes of a terminal's group, SIGTERM the one that is meant."""
    root = fresh_study(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(here)}
    command = [*RUN, "runs", "--workers", "ray:2", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=root, env=environment, **streams) as going:
        assert going.stdout is not None
        for line in going.stdout:
            if '"progress"' in line:
                break
        stop(going.pid, signal.SIGINT if code == 130 else signal.SIGTERM)
        _, said = going.communicate(timeout=120)
    assert going.returncode == code, said
    assert "Finished work is saved" in said
    left = [one for one in psutil.process_iter() if session_of(one.pid) == going.pid]
    assert psutil.wait_procs(left, timeout=60)[1] == []


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


@with_ray
@pytest.mark.slow
def test_more_workers_than_gpus_are_refused(tmp_path, here, monkeypatch):
    two = Workers(2, "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    try:
        with pytest.raises(ManifestError, match=r"ray:2: found 0 GPUs; accepted: at most one worker for each"):
            two._start()
    finally:
        two.stop()
