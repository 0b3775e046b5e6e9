"""Models and studies on disk, for the tests that use them as a user would."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight.schema.config import CONFIG
from peft import LoraConfig, get_peft_model
from xdist.scheduler import LoadFileScheduling

from nnsight_et.measuring import model_pool
from nnsight_et.results.store import Result
from tests.helpers import methods_study
from tests.helpers.faulty_loopback import FaultyLoopback
from tests.helpers.loopback_client import ADAPTERS, NAME, PLANTED, TRUSTED, UNTRUSTED
from tests.helpers.methods_study import EVERYTHING, models_in
from tests.helpers.remote_study import folders
from tests.helpers.small_study import fresh_study, steps
from tests.helpers.tiny_model import hf_llama, tokenizer

pytest_plugins = ["tests.helpers.every_method", "tests.helpers.study_folder"]

SHARING = tuple(
    f"tests/{place}"
    for place in (
        "remote/", "loopback/", "diagnostics/test_doctor_ndif.py", "models/test_adapters_used.py",
        "methods/test_jobs.py", "measuring/test_self_check.py", "robustness/test_killed.py",
        "robustness/test_secrets.py", "robustness/test_together.py",
    )
)  # fmt: skip
LONG = ("tests/workers/", "tests/engine/test_devices.py", "tests/project/test_docs.py", "tests/cli/")

os.environ.pop("COLUMNS", None)  # xdist gives its workers one: commands would print as if to a screen
torch.set_num_threads(1)  # the models are small: threads would only wait for each other

_log = logging.Logger.warning


def _warn(logger: logging.Logger, message: object, *args: object, **options: Any) -> None:
    """What a library only logs as deprecated is a warning too, and so an error: loading a model quiets their logs."""
    if "deprecated" in str(message):
        warnings.warn(str(message), FutureWarning, stacklevel=3)
    _log(logger, message, *args, **options)


logging.Logger.warning = _warn  # type: ignore[method-assign]


def shares(nodeid: str) -> bool:
    """Whether a test needs the server, runs that can be killed, or the study of every method: they are made once."""
    return nodeid.startswith(SHARING)


class Scheduling(LoadFileScheduling):
    """Of several processes one has all tests that share what takes long to start; the others go by file."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return "sharing" if shares(nodeid) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Used with -n."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process waits for it at the end."""
    items.sort(key=lambda item: (not shares(item.nodeid), not item.nodeid.startswith(LONG)))


def pytest_collection_finish() -> None:
    """What is imported is no garbage: runs, which collect it whenever they change models, need not look there."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small random model on disk."""
    hf_llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A random LoRA adapter for it, on q, k, v and o."""
    return lora(tmp_path / "adapter", seed=5)


def lora(folder: Path, seed: int) -> Path:
    """A random LoRA adapter for the small model, saved."""
    wanted = LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(hf_llama(), wanted)
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:  # B starts as zeros, which would change nothing
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)  # or it asks the hub for the base
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, run to its end; only read."""
    root = fresh_study(tmp_path_factory.mktemp("study"))
    steps(root)
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(finished, tmp_path / "study")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded while a study runs fails the test."""

    def refuse(*_args, **_options):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(model_pool, "load_model", refuse)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model that the loopback server has."""
    folder = tmp_path_factory.mktemp("deployed") / "llama"
    hf_llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def two_answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of methods_study, with its two models and the circuit; only read."""
    return models_in(tmp_path_factory.mktemp("answering"))


@pytest.fixture(scope="session")
def all_methods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of methods_study with every method, run to its end; only read."""
    root = models_in(tmp_path_factory.mktemp("methods"))
    methods_study.steps(root, EVERYTHING)
    return root


@pytest.fixture(scope="session")
def everything(all_methods: Path) -> dict[str, Result]:
    """Its results."""
    return methods_study.results(all_methods, EVERYTHING)


@pytest.fixture(scope="session")
def loopback(deployed: Path, two_answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyLoopback]:
    """A server with trusted keys and an untrusted one, which stages results of more than 4000 bytes."""
    keys, options = [TRUSTED, f"{UNTRUSTED}:untrusted", PLANTED], ["--inline-bytes=4000"]
    models = {name: lora(tmp_path_factory.mktemp("lora"), seed) for seed, name in enumerate(ADAPTERS)}
    models |= {NAME: deployed} | folders(two_answering)
    with FaultyLoopback.start(tmp_path_factory.mktemp("state"), models, keys=keys, options=options) as running:
        yield running


@pytest.fixture
def server(loopback: FaultyLoopback, monkeypatch: pytest.MonkeyPatch) -> FaultyLoopback:
    """That server without faults; the client has the trusted key."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", TRUSTED)
    monkeypatch.setattr(CONFIG.APP, "REMOTE_LOGGING", False)
    loopback.wait()
    loopback.clear()
    return loopback


@pytest.fixture
def untrusted(server: FaultyLoopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has the other key."""
    monkeypatch.setattr(CONFIG.API, "APIKEY", UNTRUSTED)
