"""A run again: what is taken from the store, what is measured afresh, and who may write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from nnsight_et.core.errors import ResultError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results import disk
from nnsight_et.runner.run import run
from tests.helpers.closeness import assert_same_scores
from tests.helpers.small_study import cells, results, scores, steps
from tests.helpers.tiny_model import hf_llama


def test_a_second_run_loads_no_weights(study, no_model):
    assert {(step.experiment, step.done, step.total, step.reused) for step in steps(study)} == {
        ("found", 1, 1, 1),
        ("table1", 1, 1, 1),
    }


def test_a_run_whose_results_are_gone_takes_every_cell_from_the_store(study):
    before = scores(study), cells(study)
    for path in study.glob("runs/study/*/*/"):
        shutil.rmtree(path)
    assert all(step.reused == step.done for step in steps(study))
    assert (scores(study), cells(study)) == before


def test_keeping_more_heads_measures_nothing_again(study):
    """Which heads are kept is decided from the scores; the same receivers make the same paths."""
    found = [step for step in steps(study, "experiments.found.stages.0.keep=6") if step.experiment == "found"]
    assert len(found) > 3
    assert all(step.reused == step.done for step in found)
    kept = results(study, "experiments.found.stages.0.keep=6")["found"].header.summary["stages"][0]["kept"]
    assert len(kept) == 6


def test_other_receivers_are_measured_and_the_stage_before_them_is_not(study):
    last = {
        step.step: step for step in steps(study, "experiments.found.stages.0.receivers=3") if step.experiment == "found"
    }
    assert {name: step.reused for name, step in last.items()} == {"a": last["a"].total, "b": 0, "c": 0, "d": 0}


def test_another_examples_seed_or_model_is_measured(study):
    for setting in ("seed=4", "task.boxes=3", "models.one.path=other"):
        found = steps(study, setting, only=["found"])
        assert all(step.reused == 0 for step in found)


def test_a_changed_weight_is_noticed(study):
    hf_llama(seed=7).save_pretrained(study / "model")
    assert all(step.reused == 0 for step in steps(study, only=["found"]))


def test_fresh_measures_everything_again_and_finds_the_same(study):
    before, old = scores(study), cells(study)
    assert all(step.reused == 0 for step in steps(study, fresh=True))
    assert scores(study) == before
    assert all(cells(study)[path] != written for path, written in old.items())


def test_a_memory_budget_changes_batches_and_not_results(study):
    before, many = results(study)["found"].scores, len(cells(study))
    shutil.rmtree(study / "runs")
    larger = {step.step: step.total for step in steps(study, "memory=1GiB", only=["found"])}
    assert larger == {"a": 1, "b": 1, "c": 1, "d": 2}  # d: one batch per place of the queried label
    assert len(cells(study)) == 5 < many
    assert_same_scores(results(study)["found"].scores, before)


def test_chunk_sizes_are_chosen_once_and_kept_whatever_budget_a_resumed_run_is_given(study):
    (folder,) = (study / "runs" / "study").iterdir()
    sizes, before, old = (folder / "chunks.json").read_bytes(), scores(study), cells(study)
    shutil.rmtree(folder / "found")
    assert all(step.reused == step.done for step in steps(study, "memory=1GiB", only=["found"]))
    assert (folder / "chunks.json").read_bytes() == sizes
    assert (scores(study), cells(study)) == (before, old)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_run_stopped_halfway_continues_with_what_it_has_and_ends_with_the_same_bytes(finished, tmp_path, after):
    for name in ("model", "other", "study.yaml"):
        (tmp_path / name).symlink_to(finished / name)
    going: Any = run(plan(load(tmp_path / "study.yaml")), tmp_path / "runs")
    for _ in range(after):
        next(going)
    going.close()
    kept = cells(tmp_path)
    assert len(kept) >= after
    steps(tmp_path)
    assert kept.items() <= cells(tmp_path).items()  # nothing finished was written again
    assert scores(tmp_path) == scores(finished)


def test_a_damaged_cell_is_measured_again(study):
    before = scores(study)
    for path in study.glob("runs/study/*/*/"):
        shutil.rmtree(path)
    broken = [path for path in sorted(cells(study)) if b'"patched"' in path.read_bytes()][:2]
    broken[0].write_bytes(broken[0].read_bytes()[:-1] + b"?")
    broken[1].write_bytes(b"")
    content = [path.read_bytes() for path in broken]
    assert sum(step.total - step.reused for step in steps(study) if step.done == step.total) <= 2
    assert all(path.read_bytes() != old for path, old in zip(broken, content, strict=True))
    assert scores(study) == before


@pytest.mark.parametrize("name", ["scores.safetensors", "result.json"])
def test_a_damaged_result_is_put_together_again(study, name):
    before = scores(study)
    path = next(study.glob(f"runs/study/*/found/{name}"))
    path.write_bytes(path.read_bytes()[:-2])
    assert all(step.reused == step.done for step in steps(study))
    assert scores(study) == before
    assert json.loads(next(study.glob("runs/study/*/found/result.json")).read_text())["schema_version"] == 2


def test_two_runs_in_one_folder_are_refused_and_the_first_goes_on(study):
    shutil.rmtree(study / "runs")
    first = run(plan(load(study / "study.yaml")), study / "runs")
    next(first)
    with pytest.raises(ResultError, match=f"process {os.getpid()} on .* is running in it"):
        steps(study)
    other = [sys.executable, "-c", OTHER_PROCESS, str(study)]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert f"process {os.getpid()} on" in refused.stdout, refused.stderr
    list(first)
    assert set(results(study)) == {"found", "table1"}
    assert steps(study)


OTHER_PROCESS = """
import sys
from typing import Any
from pathlib import Path
from nnsight_et.results.disk import one_writer
from nnsight_et.core.errors import ResultError
try:
    with one_writer(next(Path(sys.argv[1]).glob("runs/study/*"))):
        print("not refused")
except ResultError as error:
    print(error)
"""


def test_what_a_killed_run_left_half_written_is_removed(study):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    leftover = next(study.glob("runs/store/*")) / f"{disk.TEMPORARY}{disk._host()}-{gone.stdout.strip()}-abcdef01"
    leftover.write_bytes(b"half")
    steps(study)
    assert not leftover.exists()
