"""A finished run with every method on two random models; only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.api.runs import Run, open_run
from nnsight_et.manifest import load
from nnsight_et.runner.run import run, run_folder
from tests.helpers.commands import EVERY, STUDY


@pytest.fixture(scope="session")
def every(two_models: Path) -> Run:
    """The run of STUDY + EVERY, opened."""
    path = two_models / "every.yaml"
    path.write_text(STUDY + EVERY)
    manifest = load(path)
    list(run(manifest, two_models / "runs"))
    return open_run(run_folder(manifest, two_models / "runs"))
