"""The command as it is started in a shell, stopped there: an exit code, and a sentence on what is saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnsight_et.results import disk
from tests.helpers.tiny_model import hf_llama, tokenizer

STUDY = """\
name: long
models: {one: {path: one}}
task: {kind: boxes, boxes: 3}
memory: 1MiB
experiments:
  found:
    method: path_patching
    model: one
    examples: 40
    stages:
      - {group: a, into: logits, at: last, keep: 3, receivers: 2}
      - {group: b, into: a, via: query, at: last, keep: 2}
  table1:
    {method: faithfulness, circuit: found, models: [one], examples: 40, ablation_examples: 10, random_circuits: 10}
"""
RUN = [sys.executable, "-c", "from nnsight_et_cli import app; app()", "run", "study.yaml", "--out"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    hf_llama().save_pretrained(tmp_path / "one")
    tokenizer().save_pretrained(tmp_path / "one")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def cells(folder: Path) -> set[Path]:
    return {path for path in folder.glob("store/*/*.safetensors") if not path.name.startswith(disk.TEMPORARY)}


def stopped(study: Path, out: Path, how: signal.Signals, after: int) -> subprocess.CompletedProcess[str]:
    """A run that gets a signal once it has stored `after` cells."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*RUN, str(out)], cwd=study, env=environment, **streams) as running:
        while running.poll() is None and len(cells(out)) < after:
            time.sleep(0.002)
        running.send_signal(how)
        stdout, stderr = running.communicate(timeout=120)
    return subprocess.CompletedProcess(RUN, running.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("how", "code", "word"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        pytest.param(signal.SIGTERM, 143, "Terminated", marks=pytest.mark.slow),  # test_killed.py sends one too
    ],
)
def test_a_run_that_is_interrupted_says_what_is_saved(study: Path, how: signal.Signals, code: int, word: str):
    result = stopped(study, study / "runs", how, after=2)
    assert result.returncode == code
    assert f"{word}. Finished work is saved" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((study / "runs").rglob(f"{disk.TEMPORARY}*"))
