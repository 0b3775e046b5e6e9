"""A run of every method that is killed, terminated or interrupted at random moments ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest

from tests.helpers.killing import MANIFEST, Stops
from tests.helpers.methods_study import models_in

KILLS, RUNS = int(os.environ.get("KILLS", "100")), 10
"""How many kills the slow test makes, and in how many runs at least."""


def prepared(folder: Path, manifest: str) -> Stops:
    """A calm run's figures, and where others run."""
    models_in(folder)
    (folder / "study.yaml").write_text(manifest)
    made = Stops(folder, Random(KILLS))
    made.measure()
    return made


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Stops:
    """Runs as they are by default."""
    return prepared(tmp_path_factory.mktemp("checked"), MANIFEST)


def test_a_run_that_is_killed_terminated_and_interrupted_ends_with_the_same_bytes(tmp_path):
    stops = prepared(tmp_path, f'self_check: "off"\n{MANIFEST}')  # a start takes longer with it
    kill = signal.SIGKILL
    stops.until([kill, signal.SIGTERM, kill, signal.SIGINT, kill], 5)


@pytest.mark.slow
def test_a_hundred_kills_over_ten_runs_end_with_the_same_bytes(checked):
    checked.until([signal.SIGKILL] * KILLS, KILLS // RUNS)
    assert checked.runs >= RUNS


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_thirty_signals_end_with_the_same_bytes(checked, how):
    checked.until([how] * 30, 6)
