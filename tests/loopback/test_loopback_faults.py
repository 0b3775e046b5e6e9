"""The loopback server's faults, each seen through nnsight's own client; keys, restarts and counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import nnsight
import psutil
import pytest
import torch
import websocket
from nnsight.intervention.backends.remote import RemoteError
from nnsight.schema.config import CONFIG

from tests.helpers.faulty_loopback import FaultyLoopback
from tests.helpers.loopback_client import IDS, NAME, client, submitted, waited
from tests.helpers.tiny_model import hf_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def there(deployed: Path) -> Any:
    """The client's model."""
    return client(deployed)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    """The logits that `submitted` asks for, without nnsight."""
    return hf_llama()(IDS).logits[:, -1]


@pytest.fixture
def done(server: FaultyLoopback, there: Any, expected: torch.Tensor) -> Any:
    """A job that has completed."""
    job = submitted(there, server.address)
    assert torch.equal(waited(job)["logits"], expected)
    return job


def accepted(server: FaultyLoopback) -> int:
    return server.counts()["accepted"]


def test_a_blocking_job_fetches_a_large_result(server: FaultyLoopback, there: Any, expected: torch.Tensor):
    for index, count in ((-1, 0), (slice(None), 1)):
        before = server.counts()["requests"].get("GET /results/{id}", 0)
        with there.trace(input_ids=IDS, remote=server.address):
            logits = there.output.logits[:, index].clone().save()
        assert torch.equal(logits if count == 0 else logits[:, -1], expected)
        assert server.counts()["requests"].get("GET /results/{id}", 0) == before + count


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "Missing or invalid API key"),
        ("no-key", "Invalid API key format: 'no-key'"),
        ("99999999-9999-4999-8999-999999999999", "Invalid API key."),
    ],
)
def test_a_key_it_does_not_know_is_refused(server: FaultyLoopback, there: Any, monkeypatch: Any, key: str, said: str):
    monkeypatch.setattr(CONFIG.API, "APIKEY", key)
    before = accepted(server)
    with pytest.raises(RemoteError, match=said):
        submitted(there, server.address)
    assert accepted(server) == before


def test_a_request_dropped_before_it_is_read_is_no_job(server: FaultyLoopback, there: Any, done: Any):
    before = accepted(server)
    server.fault("request", "drop")
    with pytest.raises(RemoteError, match="Failed to send request"):
        submitted(there, server.address)
    assert accepted(server) == before
    server.fault("request", "drop_after")
    with pytest.raises(RemoteError, match="Failed to send request"):
        submitted(there, server.address)
    assert accepted(server) == before + 1


def test_a_status_comes_with_its_text_and_when_to_try_again(server: FaultyLoopback, there: Any, done: Any):
    server.fault("request", "status", code=429, detail="Too many", retry_after=7)
    server.fault("request", "status", nth=2, name="reconnecting")
    answer = httpx.post(f"{server.address}/request")
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "7", {"detail": "Too many"})
    with pytest.raises(RemoteError, match="compute backend is reconnecting"):
        submitted(there, server.address)
    assert [rule["fired"] for rule in server.faults()] == [1, 1]
    server.fault("response", "status", code=401)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        done()
    assert done() is not None


def test_a_poll_can_be_dropped_stuck_or_unknown(server: FaultyLoopback, done: Any, expected: torch.Tensor):
    server.fault("response", "drop")
    with pytest.raises(httpx.HTTPError):
        done()
    server.fault("response", "stuck", times=3)
    assert [done() for _ in range(3)] == [None, None, None]
    assert done.status.value == "QUEUED"
    server.fault("response", "unknown")
    assert done() is None
    assert torch.equal(done()["logits"], expected)
    assert httpx.get(f"{server.address}/response/{'0' * 32}").status_code == 404


@pytest.mark.parametrize("what", ["drop", "expired", "truncated"])
def test_a_download_can_fail_and_then_succeed(server: FaultyLoopback, done: Any, expected: torch.Tensor, what: str):
    server.fault("download", what)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of httpx, of zstandard, or of torch
        done()
    assert not isinstance(caught.value, AssertionError)
    assert torch.equal(done()["logits"], expected)


def test_a_corrupted_result_may_go_unnoticed_by_nnsight(server: FaultyLoopback, done: Any, expected: torch.Tensor):
    server.fault("download", "corrupted")
    with suppress(Exception):  # of zstandard or of torch; none where the bytes are of no number, or of one
        done()
    assert torch.equal(done()["logits"], expected)


def test_answers_can_be_late_slow_and_of_another_time(server: FaultyLoopback, done: Any):
    server.fault("response", "delay", seconds=0.3)
    server.fault("download", "slow", bytes_per_second=10_000)
    started = time.monotonic()
    assert done() is not None
    assert time.monotonic() - started > 0.3
    server.fault("response", "skew", seconds=-7200)
    clocks = [
        parsedate_to_datetime(httpx.get(f"{server.address}/response/{done.job_id}").headers["date"]) for _ in "ab"
    ]
    assert [round((datetime.now(UTC) - clock).total_seconds() / 3600) for clock in clocks] == [2, 0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"name": "out_of_memory"}, "torch.OutOfMemoryError: CUDA out of memory"),
        ({"name": "time_limit"}, "Your job exceeded the execution timeout of 600.0s."),
        ({"name": "not_deployed", "detail": "no room"}, "Could not deploy this model. no room"),
        ({"detail": "anything"}, "anything"),
    ],
)
def test_a_job_can_end_with_an_error(server: FaultyLoopback, there: Any, how: dict[str, str], said: str):
    server.fault("job", "error", **how)
    with pytest.raises(RemoteError) as caught:
        waited(submitted(there, server.address))
    assert said in str(caught.value)


def test_a_model_that_was_evicted_is_loaded_again_and_the_job_runs_once(
    server: FaultyLoopback, there: Any, expected: Any
):
    server.fault("job", "evicted")
    job = submitted(there, server.address)
    assert torch.equal(waited(job)["logits"], expected)
    assert server.counts()["jobs"][job.job_id]["runs"] == 1


def test_a_job_can_be_kept_waiting_run_long_or_be_lost(server: FaultyLoopback, there: Any, expected: torch.Tensor):
    server.fault("job", "queued", seconds=2.0)
    job: Any = submitted(there, server.address)
    assert job() is None
    assert job.status.value == "QUEUED"
    waited(job)
    server.fault("job", "running", seconds=2.0)
    job, seen = submitted(there, server.address), set()
    while job() is None:
        seen.add(job.status.value)
    assert "RUNNING" in seen
    server.fault("job", "lost")
    job = submitted(there, server.address)
    time.sleep(0.2)
    assert httpx.get(f"{server.address}/response/{job.job_id}").status_code == 404


def test_a_job_is_killed_at_its_time_limit_and_the_next_one_runs(
    server: FaultyLoopback, there: Any, expected: torch.Tensor
):
    def forever() -> None:
        with there.trace(input_ids=IDS, remote=server.address):
            while True:
                there.output  # noqa: B018

    server.fault("job", "limit", seconds=0.5)
    with pytest.raises(RemoteError, match=r"Your job exceeded the execution timeout of 0\.5s\."):
        forever()
    assert torch.equal(waited(submitted(there, server.address))["logits"], expected)


def test_a_job_that_takes_the_process_down_fails_alone(server: FaultyLoopback, there: Any, expected: torch.Tensor):
    def fatal() -> None:
        with there.trace(input_ids=IDS, remote=server.address):
            os._exit(int(there.output.logits.shape[0]))

    with pytest.raises(RemoteError, match="Error submitting request to model deployment"):
        fatal()
    assert torch.equal(waited(submitted(there, server.address))["logits"], expected)


def test_a_session_can_be_refused_cut_and_told_twice(server: FaultyLoopback, there: Any):
    def trace() -> None:
        with there.trace(input_ids=IDS, remote=server.address):
            there.output.logits.save()

    server.fault("subscribe", "status", code=503)
    with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
        trace()
    server.fault("subscribe", "drop", frames=2)
    with pytest.raises((websocket.WebSocketException, OSError)):
        trace()
    server.fault("subscribe", "duplicate")
    trace()


def test_a_model_without_a_folder_cannot_be_deployed(server: FaultyLoopback, deployed: Path, monkeypatch: Any):
    model = client(deployed)
    monkeypatch.setattr(model, "to_model_key", lambda: model_key(model).replace(NAME, "tiny/other"))
    with pytest.raises(RemoteError, match=r"Could not deploy this model\. Repository Not Found"):
        waited(submitted(model, server.address))


def model_key(model: Any) -> str:
    return type(model).to_model_key(model)


def test_status_env_and_whoami_answer_as_ndif_does(server: FaultyLoopback, done: Any, monkeypatch: Any):
    monkeypatch.setattr(CONFIG.API, "HOST", server.address)
    status = nnsight.status()
    assert status[NAME]["state"] == "RUNNING"
    assert status[NAME]["level"] == "HOT"
    assert nnsight.ndif._get("/env")["packages"]["nnsight"] == nnsight.__version__
    assert nnsight.ndif.whoami() == {"email": "somebody@localhost", "tags": ["trusted"]}
    assert nnsight.ndif.whoami("99999999-9999-4999-8999-999999999999") == {"email": None, "tags": []}


def test_counts_are_of_requests_jobs_and_bytes(server: FaultyLoopback, there: Any):
    before = server.counts()
    job = submitted(there, server.address)
    waited(job)
    now = server.counts()
    assert now["accepted"] == before["accepted"] + 1
    assert now["requests"]["POST /request"] == before["requests"]["POST /request"] + 1
    facts = now["jobs"][job.job_id]
    assert (facts["runs"], facts["ended"], facts["trusted"], now["downloads"][job.job_id]) == (1, True, True, 1)
    assert 500 < facts["bytes"] < 4000
    assert facts["result"] == len((server.folder / "jobs" / str(job.job_id) / "result").read_bytes())
    assert now["polls"][job.job_id] >= 1


def test_a_fault_that_does_not_exist_is_named(server: FaultyLoopback):
    with pytest.raises(ValueError, match="no fault 'explode' at 'request'; accepted: request: drop, status"):
        server.fault("request", "explode")
    with pytest.raises(ValueError, match=r"accepted are where, what and .*seconds"):
        server.fault("request", "delay", second=1)


def test_nothing_is_left_when_the_parent_dies(tmp_path: Path):
    script = (
        "import json, os, psutil, sys; from pathlib import Path; from nnsight_et.loopback import Loopback\n"
        "server = Loopback.start(Path(sys.argv[1]), {}); own = psutil.Process(server.process.pid)\n"
        "print(json.dumps([own.pid, *(child.pid for child in own.children(recursive=True))]), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True)
    processes = json.loads(ran.stdout)
    assert len(processes) >= 3  # the server, what the others are forked from, the one with the models
    until = time.monotonic() + 20
    while any(psutil.pid_exists(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [process for process in processes if psutil.pid_exists(process)]


def test_a_restarted_server_knows_its_jobs_or_forgets_them(
    server: FaultyLoopback, there: Any, done: Any, expected: Any
):
    before = accepted(server)
    server.fault("job", "queued", seconds=60)
    waiting = submitted(there, server.address)
    server.down()
    with pytest.raises(httpx.ConnectError):
        done()
    server.back(keep=True, wait=False)
    assert torch.equal(done()["logits"], expected)
    assert torch.equal(waited(waiting)["logits"], expected)
    assert accepted(server) == before + 1
    assert server.counts()["jobs"][waiting.job_id]["runs"] == 1
    server.restart(keep=False, wait=False)
    assert httpx.get(f"{server.address}/response/{done.job_id}").status_code == 404
    with pytest.raises(RemoteError, match="compute backend is reconnecting"):
        submitted(there, server.address)
