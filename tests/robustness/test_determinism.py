"""The same manifest gives the same bytes on one machine; with other threads and chunks the same numbers and choices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nnsight_et.results.store import Result
from tests.cli.test_resume import RUN
from tests.helpers.methods_study import EVERYTHING, models_in, results

Found = dict[str, tuple[bytes, Any]]
CLOSE = {"float32": 1e-5, "float64": 1e-6}
"""Beside scores below 1 absolute, beside others relative."""
UNCHECKED = "self_check=off"
CALM = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C", "LANG": "C"}
OTHERS = (
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    {"PYTHONHASHSEED": "4294967295", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "random", "TZ": "", "LC_ALL": "C.UTF-8", "LANG": "", "PYTHONUTF8": "0", "COLUMNS": "20"},
)


WITH_COMMA = """
import locale
locale.setlocale(locale.LC_ALL, "")
assert locale.str(1.5) == "1,5"
from nnsight_et_cli import app
app()
"""


def said(command: list[object], surroundings: dict[str, str], folder: Path) -> None:
    """Run a command to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | surroundings
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def found(written: Path, out: Path, surroundings: dict[str, str], folder: Path, program: str = RUN[2]) -> Found:
    """Every result's scores as bytes, and what its header says beside times and places, of a run in a process."""
    said([sys.executable, "-c", program, "run", written, "--out", out, "--quiet"], surroundings, folder)
    return {path.parent.name: (path.read_bytes(), told(path)) for path in out.glob("*/*/*/scores.safetensors")}


def told(scores: Path) -> Any:
    header = json.loads((scores.parent / "result.json").read_text())
    return {key: header[key] for key in ("job", "identity", "data_digest", "scores_digest", "summary", "versions")}


def the_same_bytes(written: Path, tmp_path: Path, others: tuple[dict[str, str], ...]) -> None:
    calm = found(written, tmp_path / "calm", CALM, tmp_path)
    assert calm.keys() == {"found", "table1"}
    for number, surroundings in enumerate(others):
        elsewhere = tmp_path / f"elsewhere{number}"
        elsewhere.mkdir()
        assert found(written, tmp_path / f"out{number}", surroundings, elsewhere) == calm, surroundings


@pytest.mark.slow
def test_hash_seed_time_zone_locale_and_folder_change_no_byte(written, tmp_path):
    the_same_bytes(written, tmp_path, OTHERS)


@pytest.fixture
def commas(tmp_path: Path) -> dict[str, str]:
    """Surroundings with a decimal comma and a Turkish i, made for this test alone."""
    program = shutil.which("localedef")
    made = tmp_path / "locales" / "tr_TR.UTF-8"
    made.parent.mkdir()
    if program is not None:
        subprocess.run([program, "-i", "tr_TR", "-f", "UTF-8", made], capture_output=True, check=False)
    if not made.is_dir():
        pytest.skip("localedef and the sources of locales are not installed")
    return {"LOCPATH": str(made.parent), "LC_ALL": made.name, "LANG": made.name}


@pytest.mark.slow
def test_a_decimal_comma_changes_no_byte_of_results_and_tables(written, commas, tmp_path):
    calm = found(written, tmp_path / "calm", CALM, tmp_path)
    assert found(written, tmp_path / "commas", commas, tmp_path, WITH_COMMA) == calm
    (run,) = (tmp_path / "calm" / "small").iterdir()
    for name, program, surroundings in (("plain", RUN[2], CALM), ("comma", WITH_COMMA, commas)):
        said([sys.executable, "-c", program, "export", run, "--to", tmp_path / name], surroundings, tmp_path)
    tables = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "comma")]
    assert tables[0] == tables[1] != {}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return models_in(tmp_path_factory.mktemp("determinism"))


@pytest.fixture(scope="module")
def calm(root) -> dict[str, Result]:
    return results(root, EVERYTHING, UNCHECKED)


def elsewhere(root: Path, tmp_path: Path) -> Path:
    """A folder without results, with the same models and circuit."""
    for name in ("one", "two", "circuit.json"):
        (tmp_path / name).symlink_to(root / name)
    return tmp_path


def choices(summary: Any, path: str = "") -> dict[str, Any]:
    """Everything in a summary that is no decimal number: heads, groups, names, counts."""
    if isinstance(summary, dict):
        return {
            key: value for name, entry in summary.items() for key, value in choices(entry, f"{path}.{name}").items()
        }
    if isinstance(summary, list):
        return {key: value for i, entry in enumerate(summary) for key, value in choices(entry, f"{path}.{i}").items()}
    return {} if isinstance(summary, float) else {path: summary}


def gap(here: dict[str, Result], there: dict[str, Result]) -> float:
    """The largest difference of two scores; all that was chosen is the same.

    p-values are left out: of effects near 0 they are what a test makes of rounding.
    """
    assert here.keys() == there.keys()
    worst = 0.0
    for name, result in here.items():
        assert choices(result.header.summary) == choices(there[name].header.summary), name
        assert result.scores.keys() == there[name].scores.keys()
        for key, values in result.scores.items():
            others = there[name].scores[key]
            assert (values.dtype, values.shape) == (others.dtype, others.shape)
            assert torch.equal(values.isnan(), others.isnan())
            if values.numel() and key.rpartition(".")[2] not in ("p", "p_bh", "p_holm"):
                distance = (values.double() - others.double()).nan_to_num(0.0).abs()
                worst = max(worst, (distance / values.double().nan_to_num(0.0).abs().clamp(min=1)).max().item())
    return worst


@pytest.mark.slow
def test_two_threads_give_the_numbers_of_one_and_the_same_choices(root, calm, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        there = results(elsewhere(root, tmp_path), EVERYTHING, UNCHECKED)
    finally:
        torch.set_num_threads(before)
    assert gap(calm, there) <= CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_another_memory_budget_gives_the_same_numbers_and_choices(root, tmp_path, dtype):
    found = []
    for memory in ("1MiB", "64MiB"):
        (tmp_path / memory).mkdir()
        place = elsewhere(root, tmp_path / memory)
        found.append(results(place, EVERYTHING, UNCHECKED, f"memory={memory}", f"dtype={dtype}"))
    chunks = [path.read_text() for path in tmp_path.glob("*/runs/methods/*/chunks.json")]
    assert len(set(chunks)) == 2  # it was computed in other pieces
    assert gap(*found) <= CLOSE[dtype]
