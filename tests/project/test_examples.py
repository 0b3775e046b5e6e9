"""The examples run as they stand: quickly with few pairs, and, among the slow tests, with all."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from nnsight_et.manifest.template import STUDIES
from tests.helpers.commands import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(params=["8", pytest.param("", marks=pytest.mark.slow)], ids=["few pairs", "all pairs"])
def found(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs an example in an empty folder; what it named."""
    monkeypatch.chdir(tmp_path)
    if request.param:
        monkeypatch.setenv("ET_PAIRS", request.param)
    return lambda name: runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def test_a_circuit_is_discovered_and_works_alone(found, tmp_path: Path):
    named = found("discover_a_circuit")
    full, circuit, others = (row["accuracy"] for row in named["evaluation"].rows)
    assert circuit > 0.7 * full > others
    assert named["fetchers"].top(1)[0].layer == 5
    groups = ["value_fetcher", "position_transmitter", "position_detector", "structure_reader"]
    assert [
        group.name for group in type(named["circuit"]).from_json((tmp_path / "circuit.json").read_text()).groups
    ] == groups
    assert named["carried"].rows[1]["accuracy"] > named["carried"].rows[0]["accuracy"]


def test_what_fine_tuning_changed_is_patched_in_both_directions(found):
    named = found("what_did_fine_tuning_change")
    own = {row["patched"]: row["accuracy"] for row in named["across"].rows}
    assert own["goat-tiny alone"] >= own["llama-tiny alone"]
    assert own["value_fetcher"] >= own["llama-tiny alone"]
    assert {row["patched"]: row["accuracy"] for row in named["back"].rows}["llama-tiny alone"] == own[
        "llama-tiny alone"
    ]


def test_a_model_in_memory_and_own_prompts(found, capsys: pytest.CaptureFixture[str]):
    named = found("own_model_and_prompts")
    assert len(named["pairs"]) == 3
    assert named["scores"].values.shape == (6, 8)
    assert "<1 pair at object, last" in capsys.readouterr().out


def test_every_example_is_run_here_or_with_its_task():
    assert {path.stem for path in EXAMPLES} == set(re.findall(r'found\("(\w+)"\)', Path(__file__).read_text()))
    assert {path.stem for path in (ROOT / "examples").glob("*.yaml")} == set(STUDIES)  # test_task_studies.py
    assert {path.suffix for path in (ROOT / "examples").iterdir() if path.is_file()} == {".py", ".yaml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_open_as_notebooks_and_say_how_long_they_take(path: Path):
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    assert "on one core" in text
    cells = text.split("# %%")[1:]
    for cell in cells:
        if cell.startswith(" [markdown]"):
            assert all(not line or line.startswith("#") for line in cell.splitlines()[1:])
