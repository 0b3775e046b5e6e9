"""A discovery on a server: a job for every step of the search, one for the senders of a round; stopped and resumed."""

from __future__ import annotations

import pytest

from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.remote.failures import ServerSilent
from tests.helpers.closeness import assert_same_scores
from tests.helpers.methods_study import results
from tests.helpers.remote_study import Remotely

GRAPH = """\
  graph:
    {method: discovery, model: one, examples: 6, held_out_examples: 6, mlps: true, level: 0.9, effect: 0.001, keep: 2,
     branches: 3, closed_sample: 1}
"""
SETTINGS = ("self_check=off", "seed=1")


@pytest.fixture
def away(two_answering, server, tmp_path) -> Remotely:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(two_answering / name)
    return Remotely(tmp_path, server.address)


def test_a_search_is_a_job_a_step_and_goes_on_where_it_stopped(away, server, two_answering):
    before = server.counts()["accepted"]
    for first in away.each(GRAPH, *SETTINGS):
        if first.step.startswith("branches"):
            break
    assert server.counts()["accepted"] - before == 3  # logits, profiles and branches of the first round
    server.fault("response", "drop", times=0)
    with pytest.raises(
        ServerSilent, match="the next run finds the jobs that were sent"
    ):  # the next job is sent, and not heard of
        away.steps(GRAPH, *SETTINGS)
    server.clear()
    steps = away.steps(GRAPH, *SETTINGS)
    names = {step.step for step in steps if step.total}
    assert server.counts()["accepted"] - before == len(names)  # 6 examples are one look: each step is one job
    found = away.results(GRAPH, *SETTINGS)["graph"]
    branches = DiscoverySummary.read(found.header).branches
    opened = sum(one.open for one in branches if one.into != "logits")
    rounds = [name for name in names if name.startswith("senders")]
    assert 1 < len(rounds) < opened  # branches that a round opens share a job
    assert_same_scores(found.scores, results(two_answering, GRAPH, *SETTINGS)["graph"].scores)
