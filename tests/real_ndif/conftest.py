"""A server for the tests of remote runs, with the embedded models on a hub of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnsight_et.models.catalog import EMBEDDED
from tests.helpers.methods_study import models_in
from tests.helpers.remote_study import folders
from tests.real_ndif.server import RealNdif

MODELS = ("llama", "vicuna", "float", "goat")


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hub name -> folder of each embedded model, its tokenizer beside it."""
    root = tmp_path_factory.mktemp("repositories")
    for name in MODELS:
        shutil.copytree(EMBEDDED / f"{name}-tiny", root / name)
        shutil.copytree(EMBEDDED / "tokenizer", root / name, dirs_exist_ok=True)
    return {f"tiny/{name}": root / name for name in MODELS}


@pytest.fixture(scope="session")
def study_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small study, with its two models."""
    return models_in(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def ndif_server(repositories: dict[str, Path], study_models: Path) -> Iterator[RealNdif]:
    """The NDIF server with the embedded models and the study's; each is loaded at its first request."""
    with RealNdif.start(repositories | folders(study_models)) as server:
        yield server
