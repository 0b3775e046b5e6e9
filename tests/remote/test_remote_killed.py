"""A command that is killed while its jobs are on a server: the next one fetches what was sent, none is sent twice."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.helpers.faulty_loopback import FaultyLoopback
from tests.helpers.killing import started
from tests.helpers.loopback_client import TRUSTED

STUDY = """\
name: far
backend: ndif
models: {one: {path: one, ndif: test/one}}
task: {kind: boxes, boxes: 3}
experiments:
  found: {method: path_patching, model: one, examples: 8, stages: [{group: a, into: logits, at: last, keep: 3}]}
  blind: {method: knockout, model: one, examples: 8}
"""


@pytest.fixture(scope="module")
def study(two_answering, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    (root / "one").symlink_to(two_answering / "one")
    (root / "study.yaml").write_text(STUDY)
    return root


def going(study: Path, out: Path, server: FaultyLoopback, key: str = TRUSTED) -> tuple[BaseProcess, Path]:
    """A run in a process of its own, and the folder of what it says."""
    said = Path(tempfile.mkdtemp(dir=study))
    return started(study, out, said, (server.address, key)), said


def finished(study: Path, out: Path, server: FaultyLoopback, key: str = TRUSTED) -> tuple[int | None, str]:
    """The exit code and messages of a run to its end."""
    process, said = going(study, out, server, key)
    process.join(180)
    return process.exitcode, (said / "stderr").read_text()


def stopped(
    study: Path, out: Path, server: FaultyLoopback, when: Callable[[], bool], how: signal.Signals
) -> tuple[int | None, str]:
    """The exit code and messages of a run that gets a signal as soon as something holds."""
    process, said = going(study, out, server)
    until = time.monotonic() + 120
    while process.is_alive() and not when():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid or 0, how)
    process.join(60)
    return process.exitcode, (said / "stderr").read_text()


def waiting_for_ever(server: FaultyLoopback) -> None:
    """Every job is queued for whoever asks, until the server's faults are cleared."""
    server.fault("response", "stuck", times=0)


def scores(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("far/*/*/scores.safetensors")}


@pytest.fixture(scope="module")
def calm(study, loopback) -> dict[str, bytes]:
    loopback.wait()
    loopback.clear()
    code, said = finished(study, study / "calm", loopback)
    assert code == 0, said
    return scores(study / "calm")


def jobs(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("far/*/jobs/*.json") if ".writing" not in path.name]


MOMENTS: dict[str, Callable[[Path, FaultyLoopback, int], bool]] = {
    "before anything is sent": lambda out, server, polls: any(out.glob("far/*/.holder")),
    "sent": lambda out, server, polls: bool(jobs(out)),
    "accepted": lambda out, server, polls: any(job["state"] == "accepted" for job in jobs(out)),
    "polled": lambda out, server, polls: sum(server.counts()["polls"].values()) > polls + 3,
    "downloading": lambda out, server, polls: any(
        rule["fired"] for rule in server.faults() if rule["where"] == "download"
    ),
}
EVERY_TIME = ("accepted",)


@pytest.mark.parametrize(
    "moment", [name if name in EVERY_TIME else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS]
)
def test_wherever_a_run_is_killed_the_next_one_fetches_what_was_sent(study, server, calm, tmp_path, moment):
    before, polls = server.counts()["accepted"], sum(server.counts()["polls"].values())
    if moment == "downloading":
        server.fault("download", "slow", bytes_per_second=100, times=0)
    else:
        waiting_for_ever(server)
    code, _ = stopped(study, tmp_path, server, lambda: MOMENTS[moment](tmp_path, server, polls), signal.SIGKILL)
    assert code == -signal.SIGKILL
    server.clear()
    code, said = finished(study, tmp_path, server)
    assert code == 0, said
    assert scores(tmp_path) == calm
    assert server.counts()["accepted"] - before == 2
    assert not jobs(tmp_path)


def test_an_interrupt_says_what_is_saved_and_the_job_is_found_again(study, server, calm, tmp_path):
    before = server.counts()["accepted"]
    waiting_for_ever(server)
    code, said = stopped(study, tmp_path / "out", server, lambda: bool(jobs(tmp_path / "out")), signal.SIGINT)
    server.clear()
    assert code == 130
    assert "Finished work is saved" in said
    assert "Traceback" not in said
    assert finished(study, tmp_path / "out", server)[0] == 0
    assert (scores(tmp_path / "out"), server.counts()["accepted"] - before) == (calm, 2)


def test_a_second_run_in_the_same_folder_is_refused_and_sends_nothing(study, server, calm, tmp_path):
    before, refused = server.counts()["accepted"], []
    waiting_for_ever(server)

    def second() -> bool:
        if not jobs(tmp_path / "out"):
            return False
        refused.append(finished(study, tmp_path / "out", server))
        server.clear()
        return True

    stopped(study, tmp_path / "out", server, second, signal.SIGCONT)
    ((code, said),) = refused
    assert (code, "is running in it" in said) == (1, True)
    assert (scores(tmp_path / "out"), server.counts()["accepted"] - before) == (calm, 2)


def test_a_wrong_key_is_exit_1_and_the_servers_words_without_the_key(study, server, tmp_path):
    code, said = finished(study, tmp_path / "out", server, key="99999999-9999-4999-8999-999999999999")
    assert code == 1
    assert "the server answers 403: Invalid API key" in said
    assert not [path for path in study.glob("*/std*") if "99999999-9999" in path.read_text()]
    assert "Traceback" not in said
