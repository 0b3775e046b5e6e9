"""Two random models on disk, and a folder with a manifest that uses them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nnsight_et.manifest import parse
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import run
from tests.helpers.commands import STUDY
from tests.helpers.tiny_model import hf_llama, tokenizer


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two random models, one and two."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        hf_llama(seed=seed).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def small_runs(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of STUDY, and its store; only read."""
    folder = tmp_path_factory.mktemp("small")
    for _ in run(plan(parse(STUDY, "study.yaml").in_folder(two_models)), folder / "runs"):
        pass
    return folder / "runs"


@pytest.fixture
def done(written: Path, small_runs: Path) -> Path:
    """The manifest, which has been run."""
    shutil.copytree(small_runs, written.parent / "runs")
    return written


@pytest.fixture
def written(two_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest in a folder of its own, which is the working directory, beside the two models."""
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(two_models / name)
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study.yaml"
