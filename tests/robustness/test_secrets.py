"""An API key and a hub token, planted in the environment, are in nothing that is written, printed or started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from nnsight.schema.config import CONFIG

from tests.helpers.hostile import Answer, bytes_in, said
from tests.helpers.loopback_client import PLANTED
from tests.remote.test_remote_killed import STUDY as FAR

WRONG, MALFORMED = "77777777-5ec2-4e75-9a11-ba9876543210", "planted-but-no-key"
TOKEN = "hf_PlantedHubToken0123456789"
SECRETS = (PLANTED, WRONG, MALFORMED, TOKEN)
NEAR = FAR.replace("backend: ndif\n", "")
MISSING = NEAR.replace("{path: one, ndif: test/one}", "{path: nobody/private-model}")


@pytest.fixture(scope="module")
def study(two_answering, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("secrets")
    (root / "one").symlink_to(two_answering / "one")
    for name, text in (("far", FAR), ("near", NEAR), ("missing", MISSING)):
        (root / f"{name}.yaml").write_text(text)
    return root


@pytest.fixture
def planted(study, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(study)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NDIF_API_KEY", PLANTED)
    return study


@contextmanager
def arguments_of_children() -> Iterator[list[str]]:
    """The arguments of every process that this one starts in the meantime, looked at a hundred times a second."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for child in psutil.Process().children(recursive=True):
                try:
                    seen.update(child.cmdline())
                except psutil.Error:
                    continue

    watcher, found = threading.Thread(target=look), list[str]()
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        found.extend(seen)


def told(root: Path, *arguments: object) -> Answer:
    """The command's answer; no secret is in it, in the files below root, or in a process's arguments."""
    with arguments_of_children() as started:
        answer = said(*arguments)
    files = {str(path): content for path, content in bytes_in(root).items()}
    where = files | {
        "output": answer.out.encode(),
        "messages": answer.err.encode(),
        "arguments": "\n".join(started).encode(),
    }
    for name, content in where.items():
        for secret in SECRETS:
            assert secret.encode() not in content, name
            assert secret not in name
    return answer


def test_the_search_finds_what_is_there(study, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    (tmp_path / "leak").write_text(f"key={PLANTED}")
    with pytest.raises(AssertionError, match="leak"):
        told(tmp_path, "validate", "near.yaml")


def test_a_local_study_its_report_and_the_doctor(planted):
    assert told(planted, "run", "near.yaml").code == 0
    assert told(planted, "report", "near.yaml").code == 0
    assert told(planted, "doctor").out


@pytest.fixture
def away(planted, server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The study's folder, once nnsight has the server's address and a key, as it reads them from the environment."""

    def with_key(key: str) -> Path:
        for setting, variable, value in (("HOST", "NDIF_HOST", server.address), ("APIKEY", "NDIF_API_KEY", key)):
            monkeypatch.setenv(variable, value)
            monkeypatch.setattr(CONFIG.API, setting, value)
        return planted

    return with_key


def test_a_study_on_a_server_that_takes_the_key(away, server):
    root, before = away(PLANTED), server.counts()["accepted"]
    answer = told(root, "run", "far.yaml", "--json", "--fresh")
    assert answer.code == 0, answer
    assert server.counts()["accepted"] - before == 2  # the key was used
    assert "valid (from NDIF_API_KEY)" in " ".join(told(root, "doctor", "--ndif").out.split())


@pytest.mark.parametrize("key", [WRONG, MALFORMED])
def test_a_study_on_a_server_that_refuses_the_key(away, key):
    answer = told(away(key), "run", "far.yaml", "--out", "refused")
    assert answer.code == 1, answer
    assert "key" in answer.err
    assert told(away(key), "doctor", "--ndif").out


def test_a_model_that_cannot_be_had(planted):
    answer = told(planted, "run", "missing.yaml", "--out", planted / "none")
    assert answer.code == 2
    assert "nobody/private-model" in answer.err
