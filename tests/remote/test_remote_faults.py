"""What goes wrong between here and a server costs no result and sends no job twice; what cannot be mended is said."""

from __future__ import annotations

from typing import Any

import nnsight
import pytest
import torch

from nnsight_et.core.errors import ExperimentError
from nnsight_et.methods.path_patching import experiment as path_patching
from nnsight_et.planning.plan import plan
from nnsight_et.remote.failures import Rejected, ServerSilent
from nnsight_et.results.headers import folder_of
from tests.helpers.closeness import assert_same_scores
from tests.helpers.loopback_client import TRUSTED
from tests.helpers.methods_study import results
from tests.helpers.remote_study import Remotely

ONE = (
    "  found: {method: path_patching, model: one, examples: 6, stages: [{group: a, into: logits, at: last, keep: 2}]}\n"
)
UNCHECKED = "self_check=off"


@pytest.fixture(scope="module")
def expected(two_answering) -> dict[str, torch.Tensor]:
    return results(two_answering, ONE, UNCHECKED)["found"].scores


@pytest.fixture
def away(two_answering, server, tmp_path) -> Remotely:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(two_answering / name)
    return Remotely(tmp_path, server.address)


def check(away: Remotely, expected: dict[str, torch.Tensor], *settings: str) -> None:
    found = away.results(ONE, UNCHECKED, *settings)["found"].scores
    assert_same_scores(found, expected)


SURVIVED: list[tuple[str, str, dict[str, Any]]] = [
    ("request", "drop", {"times": 2}),
    ("request", "drop_after", {}),
    ("request", "status", {"code": 503, "times": 2}),
    ("request", "status", {"code": 429, "retry_after": 0.3}),
    ("request", "slow", {"bytes_per_second": 2000}),
    ("request", "skew", {"seconds": 86400}),
    ("response", "drop", {"times": 3}),
    ("response", "status", {"code": 503, "times": 3}),
    ("response", "status", {"code": 429, "retry_after": 0.2, "times": 2}),
    ("response", "stuck", {"times": 20}),
    ("response", "unknown", {"times": 3}),
    ("response", "slow", {"bytes_per_second": 2000}),
    ("download", "drop", {}),
    ("download", "status", {"code": 500}),
    ("download", "truncated", {}),
    ("download", "corrupted", {"times": 2}),
    ("download", "expired", {}),
    ("job", "queued", {"seconds": 1.0}),
    ("job", "evicted", {}),
]


@pytest.mark.parametrize(("where", "what", "how"), SURVIVED, ids=[f"{one} {two}" for one, two, _ in SURVIVED])
def test_a_fault_costs_no_result_and_no_second_job(away, server, expected, where, what, how):
    before = server.counts()["accepted"]
    server.fault(where, what, **how)
    check(away, expected)
    assert [rule["fired"] for rule in server.faults()] == [how.get("times", 1)]
    assert server.counts()["accepted"] - before == 1


AGAIN: list[tuple[str, str, dict[str, Any]]] = [
    ("job", "lost", {}),
    ("download", "expired", {"times": 5}),
    ("job", "error", {"name": "evicted"}),
    ("job", "error", {"name": "replica_restarted"}),
    ("job", "error", {"name": "error_starting"}),
    ("job", "error", {"name": "payload"}),
]


@pytest.mark.parametrize(("where", "what", "how"), AGAIN, ids=[f"{one} {two} {list(h)}" for one, two, h in AGAIN])
def test_a_job_the_server_has_lost_is_sent_once_more(away, server, expected, where, what, how):
    before = server.counts()["accepted"]
    server.fault(where, what, **how)
    check(away, expected)
    assert server.counts()["accepted"] - before == 2


@pytest.mark.parametrize("name", ["out_of_memory", "out_of_memory_cpu"])
def test_what_is_too_large_for_one_job_goes_in_with_less_at_once(away, server, expected, name):
    before = server.counts()["accepted"]
    server.fault("job", "error", name=name)
    check(away, expected, "memory=512MiB", "probe=off")
    assert server.counts()["accepted"] - before == 2
    assert "SMALLER" in {waiting.status for waiting in away.heard}


def test_what_takes_too_long_goes_in_with_half_the_senders(away, server, expected):
    before = server.counts()["accepted"]
    server.fault("job", "error", name="time_limit", times=2)
    check(away, expected)
    assert server.counts()["accepted"] - before == 5  # all; a half; its halves; the other half


MASKS = """\
  masks:
    {method: dcm, model: one, circuit: ./circuit.json, desiderata: [object], training_examples: 8, batch: 4, epochs: 2,
     validation_examples: 6, test_examples: 5, learning_rate: 0.4, validate_every: 2}
"""


def test_a_training_that_takes_too_long_goes_on_in_another_job(away, two_answering, server):
    for name in ("circuit.json",):
        (away.root / name).symlink_to(two_answering / name)
    expected = results(two_answering, MASKS, UNCHECKED)["masks"]
    before = server.counts()["accepted"]
    server.fault("job", "error", name="time_limit", times=2)
    found = away.results(MASKS, UNCHECKED, "probe=off")["masks"]
    assert {key: value.tolist() for key, value in found.scores.items() if key.endswith("masks")} == {
        key: value.tolist() for key, value in expected.scores.items() if key.endswith("masks")
    }
    assert found.header.summary == expected.header.summary
    assert server.counts()["accepted"] - before == 7  # all; half the steps; its two halves; the rest; choice; test


def test_a_restarted_server_that_has_kept_its_jobs_is_asked_on(away, server, expected):
    before = server.counts()["accepted"]
    server.fault("job", "running", seconds=1.5)
    away.on_running = lambda: server.restart(keep=True, wait=False)
    check(away, expected)
    assert server.counts()["accepted"] - before == 1


def test_connections_that_are_refused_are_tried_until_the_server_is_up(away, server, expected):
    server.down()
    away.on_first_word = lambda: server.back(keep=False)
    check(away, expected)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("request", "status", {"name": "missing_key"}, r"401: Missing or invalid API key.*NDIF_API_KEY"),
    ("response", "status", {"code": 401, "detail": "expired key"}, r"401: expired key"),
    ("job", "error", {"name": "no_room"}, r"Could not deploy this model"),
    ("job", "error", {"name": "architecture"}, r"doesn't match the one your code was traced against"),
]


@pytest.mark.parametrize(("where", "what", "how", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_what_cannot_be_mended_stops_the_run_with_the_servers_words(away, server, where, what, how, words):
    before = server.counts()["accepted"]
    server.fault(where, what, times=0, **how)
    with pytest.raises(Rejected, match=words) as stopped:
        away.steps(ONE, UNCHECKED)
    assert TRUSTED not in str(stopped.value)
    assert server.counts()["accepted"] - before <= 1


def test_a_key_that_the_server_repeats_is_not_repeated_here(away):
    away.key = "a-secret-of-mine"
    with pytest.raises(Rejected, match=r"400: Invalid API key format: '\*\*\*'") as stopped:
        away.steps(ONE, UNCHECKED)
    assert "a-secret-of-mine" not in str(stopped.value)


def test_an_error_in_our_own_block_comes_back_with_its_line(away, server, monkeypatch):
    nnsight.register(__name__)
    monkeypatch.setattr(path_patching, "path_probabilities", failing)
    with pytest.raises(ExperimentError, match=r"failed on the server: ZeroDivisionError.* \(.*calls\.py:\d+\)"):
        away.steps(ONE, UNCHECKED)


def failing(model, *_arguments):
    return {"base": 1 / 0}


def test_a_server_that_stays_silent_stops_the_run_and_the_next_one_fetches_the_job(away, server, expected):
    before = server.counts()["accepted"]
    server.fault("response", "drop", times=0)
    with pytest.raises(ServerSilent, match="the next run finds the jobs that were sent"):
        away.steps(ONE, UNCHECKED)
    server.clear()
    check(away, expected)
    assert server.counts()["accepted"] - before == 1


def test_a_key_that_is_refused_in_the_middle_costs_no_job(away, server, expected):
    before = server.counts()["accepted"]
    server.fault("job", "running", seconds=1.5)
    server.fault("response", "status", code=401, detail="no longer", nth=2)
    with pytest.raises(Rejected, match="401: no longer"):
        away.steps(ONE, UNCHECKED)
    check(away, expected)
    assert server.counts()["accepted"] - before == 1


def test_a_fresh_run_fetches_nothing_of_before(away, server, expected):
    before = server.counts()["accepted"]
    server.fault("response", "drop", times=0)
    with pytest.raises(ServerSilent):
        away.steps(ONE, UNCHECKED)
    server.clear()
    away.steps(ONE, UNCHECKED, fresh=True)
    assert server.counts()["accepted"] - before == 2
    check(away, expected)


def test_a_result_that_was_damaged_here_is_asked_for_again(away, server, expected):
    folder = folder_of(away.root / "away", plan(away.manifest(ONE, UNCHECKED)))
    server.fault("response", "drop", times=0)
    with pytest.raises(ServerSilent):
        away.steps(ONE, UNCHECKED)
    server.clear()
    (entry,) = (folder / "jobs").glob("*.json")
    entry.with_suffix("").write_bytes(b"no archive")
    (last, *_) = reversed(away.steps(ONE, UNCHECKED))
    assert [path.name for path in last.damaged] == [entry.stem]
    check(away, expected)
