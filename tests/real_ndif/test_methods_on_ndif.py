"""Every method on the NDIF server itself finds what it finds here, trusted and not; in how many jobs; killed, again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nnsight.schema.request import RequestModel

from nnsight_et.manifest import Manifest, parse
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.planning.plan import plan
from nnsight_et.remote.client import Client
from nnsight_et.remote.server import RemoteJob, RetryPolicy
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import Remote, RunOptions, run
from tests.helpers.methods_study import EVERYTHING, STUDY, results
from tests.helpers.remote_study import Remotely
from tests.real_ndif.server import RealNdif

pytestmark = pytest.mark.real_ndif
ROOT = Path(__file__).parent.parent.parent
PATIENCE = RetryPolicy(first=0.05, most=0.5, silence=120.0)
JOBS = {  # a stage, a model, or what the next depends on is a job; comparison needs no model
    "found": 2, "table": 2, "pruned": 2, "complete": 1, "masks": 2, "roles": 2, "across": 2, "blind": 1, "looks": 1,
    "screen": 1, "mlps": 2,
}  # fmt: skip
APPROXIMATED = ("screen",)  # finite differences where there are no gradients
ADAPTERS = f"""\
name: adapters
models:
  base: {{path: {EMBEDDED}/llama-tiny, tokenizer: {EMBEDDED}/tokenizer, ndif: tiny/llama}}
  goat: {{path: {EMBEDDED}/llama-tiny, adapter: {EMBEDDED}/goat-tiny, tokenizer: {EMBEDDED}/tokenizer,
         ndif: tiny/llama, ndif_adapter: tiny/goat}}
experiments:
  of_goat:
    method: path_patching
    model: goat
    examples: 3
    stages: [{{group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}}]
  of_base:
    method: path_patching
    model: base
    examples: 3
    stages: [{{group: value_fetcher, into: logits, at: last, keep: 4, receivers: 2}}]
  across: {{method: cmap, donor: goat, recipient: base, circuit: of_goat, examples: 3, random_sets: 1}}
"""
LONG = """\
  found:
    method: path_patching
    model: one
    examples: 60
    stages: [{group: value_fetcher, into: logits, at: last, keep: 4}]
"""
RUN = [sys.executable, "-c", "from nnsight_et_cli import app; app()", "run", "methods.yaml", "--out", "away"]


@pytest.fixture(scope="module")
def here(study_models, tmp_path_factory) -> Path:
    return shutil.copytree(study_models, tmp_path_factory.mktemp("here") / "study")


@pytest.fixture(scope="module")
def found_here(here) -> dict[str, Result]:
    return results(here, EVERYTHING)


@pytest.fixture(scope="module", params=["trusted", "untrusted"])
def trust(request) -> Iterator[str]:
    """Whether jobs run in the model's process; where keys are not checked, the server heeds this in the request."""
    plain = RequestModel.metadata

    def asking(request: RequestModel) -> str:
        return json.dumps(json.loads(plain(request)) | {"trusted": False})

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "untrusted":
            patch.setattr(RequestModel, "metadata", asking)
        yield request.param


@pytest.fixture(scope="module")
def sent() -> Iterator[Counter]:
    """How many jobs each experiment has sent since this was last cleared, and how many `requests` that took."""
    counts, sending, submitting = Counter(), RemoteJob._send, Client.submit

    def of_experiment(job: RemoteJob, *arguments):
        counts[job.experiment] += 1
        return sending(job, *arguments)

    def request(client: Client, *arguments):
        counts["requests"] += 1
        return submitting(client, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteJob, "_send", of_experiment)
        patch.setattr(Client, "submit", request)
        yield counts


@pytest.fixture(scope="module")
def away(trust, here, found_here, ndif_server: RealNdif, tmp_path_factory) -> Remotely:
    ignored = shutil.ignore_patterns("runs")
    root = shutil.copytree(here, tmp_path_factory.mktemp(trust) / "study", ignore=ignored)
    return Remotely(root, ndif_server.address, "", patience=PATIENCE)


@pytest.fixture(scope="module")
def found_away(away, sent) -> dict[str, Result]:
    sent.clear()
    found = away.results(EVERYTHING)
    assert sent == JOBS | {"requests": sum(JOBS.values())}
    return found


def check(found: dict[str, Result], expected: dict[str, Result], approximated: tuple[str, ...] = ()) -> None:
    assert set(found) == set(expected)
    for name, result in found.items():
        atol = 2e-3 if name in approximated else 1e-5
        scores, others = result.scores, expected[name].scores
        assert set(scores) == set(others)
        for key in scores:
            one, other = scores[key].double(), others[key].double()
            torch.testing.assert_close(one, other, atol=atol, rtol=1e-5, equal_nan=True, msg=f"{name} {key}")


def test_every_number_is_the_one_found_here(trust, found_away, found_here):
    check(found_away, found_here, APPROXIMATED if trust == "untrusted" else ())


def test_the_heads_found_and_kept_are_the_same(found_away, found_here):
    for name in ("found", "pruned"):
        assert found_away[name].header.summary["circuit"] == found_here[name].header.summary["circuit"]
    for name, result in found_away.items():
        assert result.header.job_id == found_here[name].header.job_id


def test_the_result_says_which_gradient_was_used(trust, found_away):
    kind = "autograd" if trust == "trusted" else "finite differences"
    for name in ("masks", "screen"):
        assert {row["gradient"] for row in found_away[name].header.summary["rows"]} == {kind}


def test_the_checks_were_made_on_the_server(found_away, found_here):
    for name, result in found_away.items():
        made, expected = (one.header.self_check.checks for one in (result, found_here[name]))
        assert {check.check for check in made} >= {check.check for check in expected}


def test_a_second_run_sends_nothing(away, found_away, sent):
    sent.clear()
    assert all(step.reused == step.total for step in away.steps(EVERYTHING))
    assert not sent


def measured(manifest: Manifest, root: Path, remote: Remote | None = None) -> dict[str, Result]:
    list(run(plan(manifest), root, options=RunOptions(remote or Remote())))
    folder = folder_of(root, plan(manifest))
    return {path.parent.name: read_result(path.parent) for path in folder.glob("*/result.json")}


def test_an_adapter_runs_over_its_base_and_gives_it_its_activations(trust, ndif_server, sent, tmp_path):
    sent.clear()
    here = measured(parse(ADAPTERS, "adapters.yaml"), tmp_path / "here")
    remote = Remote(patience=PATIENCE, host=ndif_server.address, key="")
    away = measured(parse(ADAPTERS, "adapters.yaml", ["backend=ndif"]), tmp_path / "away", remote)
    check(away, here)
    assert sent == {"of_goat": 1, "of_base": 1, "across": 2, "requests": 4}
    goat, base = (here[name].scores for name in ("of_goat", "of_base"))
    assert any(not torch.equal(goat[key], base[key]) for key in goat)  # the adapter does something


def test_a_job_whose_client_was_killed_is_fetched_and_not_sent_again(ndif_server, study_models, sent, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(study_models / name)
    away = Remotely(tmp_path, ndif_server.address, "", patience=PATIENCE)
    (tmp_path / "methods.yaml").write_text(STUDY + LONG)
    settings = ["backend=ndif", "models.one.ndif=test/one", "models.two.ndif=test/two"]
    command = [*RUN, *(word for setting in settings for word in ("--set", setting))]
    environment = os.environ | {"NDIF_HOST": ndif_server.address, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    journal = folder_of(tmp_path / "away", plan(away.manifest(LONG))) / "jobs"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as killed:
        until = time.monotonic() + 60
        while not any('"accepted"' in path.read_text() for path in journal.glob("*.json")):
            assert killed.poll() is None
            assert time.monotonic() < until
            time.sleep(0.005)
        killed.kill()
    (entry,) = journal.glob("*.json")
    sent.clear()
    expected = results(tmp_path, LONG)
    check(away.results(LONG), expected)
    assert not sent
    assert not entry.exists()
