"""A finished run with every method on two random models; only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsight_et.api.runs import Run, open_run
from nnsight_et.manifest import load
<<<<<<< 303653e0580b1484b39c585683ee32e1a1766115:tests/every_method.py
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.runner.run import run

pytest_plugins = ["study_folder"]
=======
from nnsight_et.runner.run import run, run_folder
from tests.helpers.commands import EVERY, STUDY
>>>>>>> 7b0771ecdcda47004cbf08ec3a8c2a72c1b0bcbb:tests/helpers/every_method.py


@pytest.fixture(scope="session")
def every(two_models: Path) -> Run:
    """The run of STUDY + EVERY, opened."""
    path = two_models / "every.yaml"
    path.write_text(STUDY + EVERY)
    manifest = load(path)
    list(run(plan(manifest), two_models / "runs"))
    return open_run(folder_of(two_models / "runs", plan(manifest)))
