"""How many jobs an experiment is on a server, and how many bytes cross the wire for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from methods_study import models_in
from remote_study import TRUSTED, Remotely, folders
from test_jobs import EVERYTHING

from nnsight_et.loopback import Loopback

STAGES = """\
  found:
    method: path_patching
    model: one
    examples: %d
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
"""
JOBS = {  # a stage, a model, or what the next step depends on is a job; a comparison needs no model
    "found": 2, "table": 2, "pruned": 2, "complete": 1, "masks": 3, "roles": 2, "across": 2, "blind": 1, "looks": 1,
    "screen": 1, "overlap": 0,
}  # fmt: skip
SENDERS, PER_VALUE, PER_JOB = 12 + 8, 16, 1 << 16


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return models_in(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models, tmp_path_factory) -> Iterator[Loopback]:
    with Loopback.start(tmp_path_factory.mktemp("state"), folders(models), keys=[TRUSTED]) as running:
        running.wait()
        yield running


@pytest.fixture
def away(models, server, tmp_path) -> Remotely:
    for name in ("one", "two", "circuit.json"):
        (tmp_path / name).symlink_to(models / name)
    return Remotely(tmp_path, server.address)


def test_every_experiment_is_as_few_jobs_as_it_has_dependent_steps(away, server):
    accepted, jobs = server.counts()["accepted"], dict[str, int]()
    for step in away.each(EVERYTHING):
        now = server.counts()["accepted"]
        jobs[step.experiment] = jobs.get(step.experiment, 0) + now - accepted
        accepted = now
    assert jobs == JOBS


def test_only_scores_come_home_and_only_prompts_and_code_go_out(away, server):
    """Self-checks included."""
    before = set(server.counts()["jobs"])
    away.steps(STAGES % 100, "memory=512MiB")
    jobs = [job for name, job in server.counts()["jobs"].items() if name not in before]
    assert len(jobs) == 2
    assert sum(job["result"] for job in jobs) <= PER_VALUE * SENDERS * 100
    assert all(job["bytes"] <= PER_JOB for job in jobs)
