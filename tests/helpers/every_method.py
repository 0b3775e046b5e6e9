"""A finished run with every method on two random models; only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.api.runs import Run, open_run
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.runner.run import run
from tests.helpers.commands import EVERY, STUDY


@pytest.fixture(scope="session")
def every(two_models: Path) -> Run:
    """The run of STUDY + EVERY, opened."""
    path = two_models / "every.yaml"
    path.write_text(STUDY + EVERY)
    manifest = load(path)
    list(run(plan(manifest), two_models / "runs"))
    return open_run(folder_of(two_models / "runs", plan(manifest)))
