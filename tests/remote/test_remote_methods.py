"""Every method on a server finds what it finds here, with a key that is trusted and with one that is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nnsight_et.results.store import Result
from tests.helpers.loopback_client import TRUSTED, UNTRUSTED
from tests.helpers.methods_study import EVERYTHING, UNCHECKED, results
from tests.helpers.remote_study import Remotely

JOBS = {  # a stage, a model, or what the next step depends on is a job; a comparison needs no model
    "found": 2, "table": 2, "pruned": 2, "complete": 1, "masks": 2, "roles": 2, "across": 2, "blind": 1, "looks": 1,
    "screen": 1, "overlap": 0, "mlps": 2, "graph": 1,
}  # fmt: skip
STAGES = """\
  found:
    method: path_patching
    model: one
    examples: 100
    stages:
      - {group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}
      - {group: position_detector, into: value_fetcher, via: value, at: query_label, keep: 2}
"""
METRICS = "".join(
    f"""\
  {metric}:
    {{method: path_patching, model: one, metric: {metric}, examples: 100,
     stages: [{{group: value_fetcher, into: logits, at: last, keep: 4}}]}}
"""
    for metric in ("logit_difference", "probability_difference", "kl")
)
SENDERS, PER_VALUE, PER_JOB = 12 + 8, 16, 80 << 10
APPROXIMATED = ("screen",)  # finite differences where there are no gradients
COURSE = ("course", "gradients")  # of masks, whose rounded values are the same
FEW = ("found", "masks", "blind", "screen")
"""Those in which the two keys differ, and two in which they do not."""
KEYS = {"trusted": (TRUSTED, ()), "untrusted, few": (UNTRUSTED, FEW), "untrusted": (UNTRUSTED, ())}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name == "untrusted" else ()) for name in KEYS]
)
def away(request, two_answering, loopback, tmp_path_factory) -> Remotely:
    root = shutil.copytree(two_answering, tmp_path_factory.mktemp("away") / "study")
    return Remotely(root, loopback.address, *KEYS[request.param])


@pytest.fixture(scope="module")
def found_away(away, loopback) -> dict[str, Result]:
    loopback.wait()
    loopback.clear()
    accepted = loopback.counts()["accepted"]
    for step in away.each(EVERYTHING, only=away.only):
        now = loopback.counts()["accepted"]
        away.jobs[step.experiment] = away.jobs.get(step.experiment, 0) + now - accepted
        accepted = now
    return away.results(EVERYTHING, only=away.only)


@pytest.fixture(scope="module")
def found_here(everything, found_away) -> dict[str, Result]:
    """The same experiments."""
    return {name: everything[name] for name in found_away}


def test_every_number_is_the_one_found_here_to_the_last_bit(away, found_away, everything):
    """With as many threads; finite differences are near."""
    assert set(found_away) == set(away.only or everything)
    for name, result in found_away.items():
        expected = everything[name]
        assert set(result.scores) == set(expected.scores)
        for key, values in result.scores.items():
            near = 2e-2 if key.endswith(COURSE) else 2e-3 if name in APPROXIMATED else 0.0
            tolerance = 0.0 if away.key == TRUSTED else near
            one, other = values.double(), expected.scores[key].double()
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance, equal_nan=True, msg=f"{name} {key}")


def test_the_heads_found_and_kept_are_the_same_and_results_are_interchangeable(found_away, found_here):
    for name in {"found", "pruned"} & set(found_away):
        assert found_away[name].header.summary["circuit"] == found_here[name].header.summary["circuit"]
    for name, result in found_away.items():
        assert result.header.job_id == found_here[name].header.job_id


def test_the_result_says_where_it_ran_and_which_gradient_was_used(away, found_away, found_here):
    kind = "autograd" if away.key == TRUSTED else "finite differences"
    for name in ("masks", "screen"):
        assert {row["gradient"] for row in found_away[name].header.summary["rows"]} == {kind}
        same = found_away[name].header.identity == found_here[name].header.identity
        assert same == (kind == "autograd")
    assert all(result.header.device == "ndif" for result in found_away.values())


def test_the_checks_were_made_on_the_server(found_away, found_here):
    for name, result in found_away.items():
        checks = {check.check for check in result.header.self_check.checks}
        here = {check.check for check in found_here[name].header.self_check.checks}
        assert checks >= here - {"weights"}  # which are there, and not here


def test_every_experiment_is_as_few_jobs_as_it_has_dependent_steps(away, found_away):
    assert away.jobs == {name: JOBS[name] for name in found_away}


def test_only_scores_come_home_and_only_prompts_and_code_go_out(away, server):
    """Self-checks included."""
    before = set(server.counts()["jobs"])
    away.steps(STAGES, "memory=512MiB")
    jobs = [job for name, job in server.counts()["jobs"].items() if name not in before]
    assert len(jobs) == 2
    assert sum(job["result"] for job in jobs) <= PER_VALUE * SENDERS * 100
    assert all(job["bytes"] <= PER_JOB for job in jobs), [job["bytes"] for job in jobs]


def test_metrics_are_measured_there_and_only_their_values_come_home(away, two_answering, server, tmp_path):
    before = set(server.counts()["jobs"])
    away.steps(METRICS)
    jobs = [job for name, job in server.counts()["jobs"].items() if name not in before]
    assert len(jobs) == 3
    assert all(
        job["result"] <= 2 * PER_VALUE * (1 + 12) * 100 for job in jobs
    )  # the logits alone would be 12 times that
    expected = results(Path(shutil.copytree(two_answering, tmp_path / "here")), METRICS)
    for name, result in away.results(METRICS).items():
        for key, values in result.scores.items():
            here = expected[name].scores[key]
            if name == "logit_difference":  # here the words it needs are computed alone, and round otherwise
                torch.testing.assert_close(values, here, atol=1e-5, rtol=1e-4, equal_nan=True, msg=f"{name} {key}")
            else:
                assert torch.equal(values.nan_to_num(9.0), here.nan_to_num(9.0)), f"{name} {key}"


def test_a_second_run_sends_nothing(away, found_away, server):
    before = server.counts()["accepted"]
    assert all(step.reused == step.total for step in away.steps(EVERYTHING, only=away.only))
    assert server.counts()["accepted"] == before


def test_no_key_is_written_anywhere(away, found_away):
    for path in (away.root / "away").rglob("*"):
        assert not path.is_file() or away.key.encode() not in path.read_bytes()
    assert not list((away.root / "away").glob("methods/*/jobs/*"))


def test_a_look_at_a_model_is_sent_though_no_cell_is_missing(server, two_answering, tmp_path):
    """Results were made without it, and are made again from cells that are there."""
    away = Remotely(shutil.copytree(two_answering, tmp_path / "study"), server.address, TRUSTED)
    text = "  blind: {method: knockout, model: one, edges: [{blind: last, to: query_label}], examples: 3}\n"
    first = away.results(text, UNCHECKED, "probe=off")["blind"]
    before = server.counts()["accepted"]
    again = away.results(text, UNCHECKED)["blind"]
    assert server.counts()["accepted"] == before + 1
    assert (first.header.probe, again.header.probe) == ("off", "on")
    assert [notice.kind for notice in again.header.notices] == ["chance"]
