"""Every method on the NDIF server itself finds what it finds here, trusted and not; and in how many jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from methods_study import models_in, results
from nnsight.schema.request import RequestModel
from real_ndif.server import RealNdif
from remote_study import Remotely
from test_jobs import EVERYTHING

from nnsight_et.manifest import parse
from nnsight_et.remote.client import Client
from nnsight_et.remote.job import Job, Patience
from nnsight_et.run import Remote, run, run_folder
from nnsight_et.store import Result, read_result

pytestmark = pytest.mark.real_ndif
APPROXIMATED = ("screen",)  # finite differences where there are no gradients
PATIENCE = Patience(first=0.05, most=0.5, silence=120.0)


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
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "untrusted":
            patch.setattr(RequestModel, "metadata", lambda self: json.dumps(json.loads(plain(self)) | {"trusted": False}))
        yield request.param


@pytest.fixture(scope="module")
def sent() -> Iterator[Counter]:
    """How many jobs each experiment has sent since the last clear()."""
    counts, plain, new = Counter(), Client.submit, Job._new

    def submit(self, *arguments):
        counts["jobs"] += 1
        return plain(self, *arguments)

    def named(self, names):
        counts[self.experiment] += 1
        return new(self, names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "submit", submit)
        patch.setattr(Job, "_new", named)
        yield counts


@pytest.fixture(scope="module")
def away(trust, here, found_here, ndif_server: RealNdif, tmp_path_factory) -> Remotely:
    ignored = shutil.ignore_patterns("runs")
    root = shutil.copytree(here, tmp_path_factory.mktemp(trust) / "study", ignore=ignored)
    return Remotely(root, ndif_server.address, "", PATIENCE)


@pytest.fixture(scope="module")
def found_away(away, sent) -> dict[str, Result]:
    sent.clear()
    start = time.monotonic()
    found = away.results(EVERYTHING)
    print(dict(sent), time.monotonic() - start, {n: r.header.seconds for n, r in found.items()})
    return found


def test_every_number_is_the_one_found_here(trust, found_away, found_here):
    assert set(found_away) == set(found_here)
    for name, result in found_away.items():
        exact = trust == "trusted" or name not in APPROXIMATED
        assert set(result.scores) == set(found_here[name].scores)
        for key, values in result.scores.items():
            one, other = values.double(), found_here[name].scores[key].double()
            torch.testing.assert_close(one, other, atol=1e-5 if exact else 2e-3, rtol=1e-5, equal_nan=True, msg=lambda text: f"{name} {key}: {text}")
