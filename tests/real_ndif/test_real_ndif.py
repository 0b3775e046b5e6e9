"""The NDIF server itself, on a CPU: what the project leans on, with nnsight's own client and no code in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.real_ndif.server import RealNdif

pytestmark = pytest.mark.real_ndif
CLIENT = Path(__file__).parent / "client.py"
ROOT = CLIENT.parent.parent.parent


@pytest.fixture(scope="module", params=["trusted", "untrusted"])
def trust(request: pytest.FixtureRequest) -> str:
    """Whether the server runs the job in the model's process, or in one of its own that has no weights."""
    return request.param


@pytest.fixture(scope="module")
def answers(
    trust: str, ndif_server: RealNdif, repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the client process found out."""
    folders = tmp_path_factory.mktemp("client") / "folders.json"
    folders.write_text(json.dumps({name: str(folder) for name, folder in repositories.items()}))
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NDIF_"))}
    environment = outside | ndif_server.environment | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(CLIENT), str(folders), trust]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_server_does_not_have_this_package(answers: dict[str, Any], ndif_server: RealNdif, trust: str):
    with urlopen(f"{ndif_server.address}/env") as answer:
        packages = json.load(answer)["packages"]
    assert "torch" in packages
    assert not [name for name in packages if name.startswith("nnsight_et")]
    assert answers["what_a_job_sees"] == {"ours": [], "meta": trust == "untrusted"}


def test_a_trace_gives_the_local_logits(answers: dict[str, Any]):
    assert answers["trace"] == 0


@pytest.mark.parametrize("check", ["path_patching", "path_patching_reference"])
def test_an_intervention_in_a_session_gives_the_local_numbers_to_the_last_bit(answers: dict[str, Any], check: str):
    assert answers[check] == 0


def test_a_list_of_functions_and_arguments_runs_in_one_job(answers: dict[str, Any]):
    assert answers["list_of_calls"] == 0


def test_the_adapter_of_a_request_is_that_of_its_job(answers: dict[str, Any]):
    *each, apart = answers["adapters"]
    assert each == [0, 0, 0, 0]
    assert apart > 1


def test_a_job_is_fetched_by_its_id_as_often_as_wanted(answers: dict[str, Any]):
    assert answers["fetched_twice"] == 0


def test_a_gradient_through_the_model_is_the_local_one_or_refused(answers: dict[str, Any], trust: str):
    if trust == "trusted":
        assert (answers["gradient"], answers["training"]) == (0, 0)
    else:
        assert "appears to not have been used in the graph" in answers["gradient"]["error"]


def test_an_error_names_our_file_and_line(answers: dict[str, Any]):
    text = answers["error"]["error"].strip()
    assert text.splitlines()[-1] == "AssertionError: senders in the order of a forward pass"
    source = ROOT / "nnsight_et" / "interventions" / "path_patching.py"
    lines = source.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if "assert list(senders)" in text)
    assert f'{source}", line {line}, in path_probabilities' in text
