"""A power cut at any moment leaves every file whole or not at all, and everything that was finished before it."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count
from pathlib import Path
from random import Random

import pytest
import torch

from nnsight_et.core.errors import ResultError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results import disk
from nnsight_et.results.store import Store, read_result, write_result
from nnsight_et.runner.run import run
from tests.helpers.commands import STUDY
from tests.helpers.killing import GONE, MANIFEST, check_whole
from tests.helpers.methods_study import models_in
from tests.helpers.power_cut import Disk, Moment
from tests.results.test_store import TENSORS, a_result

OLD, NEW = a_result(seconds=1.0), a_result(seconds=2.0)
SMALL = STUDY.replace("boxes: 3", "boxes: 2, objects: [book, car, paper, letter]")


def watched(root: Path, patch: pytest.MonkeyPatch) -> Disk:
    root.mkdir(exist_ok=True)
    seen = Disk(root)
    seen.watch(patch)
    return seen


def some_writing(root: Path) -> None:
    """A cell, a result in a new folder, and another in place of it."""
    Store(root).write_cell("abc", TENSORS)
    for result in (OLD, NEW):
        write_result(root / "small" / "plan" / "found", result)


def faults(root: Path) -> set[str]:
    """What is there and not whole."""
    found, cell = set(), root / "store" / "ab" / "abc.safetensors"
    if cell.exists() and Store(root).cell("abc") is None:
        found.add("cell")
    result = root / "small" / "plan" / "found"
    if result.exists():
        try:
            read = read_result(result)
        except ResultError:
            found.add("result")
        else:
            assert read.header.seconds in (1.0, 2.0)
            assert all(torch.equal(read.scores[name], TENSORS[name]) for name in TENSORS)
    return found


def put(moment: Moment, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    moment.put(place)
    return place


def all_faults(seen: Disk, place: Path) -> tuple[int, set[str]]:
    """How many states power cuts may leave, and what is not whole in any of them."""
    made = count()
    found = [faults(put(one, place)) for one in seen.survivors(Random(1), 6) if next(made) >= 0]
    return len(found), set().union(*found)


def test_a_power_cut_leaves_whole_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        seen = watched(tmp_path / "runs", patch)
        some_writing(tmp_path / "runs")
    states, found = all_faults(seen, tmp_path / "left")
    assert states > 200
    assert not found


def test_what_was_written_before_a_power_cut_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        seen = watched(tmp_path / "runs", patch)
        some_writing(tmp_path / "runs")
        seen.look()
    left = put(seen.moments[-1].lost(), tmp_path / "left")
    assert Store(left).cell("abc") is not None
    assert read_result(left / "small" / "plan" / "found").header.seconds == 2.0


@pytest.mark.parametrize(("flush", "lost"), [("_write_and_flush", {"cell", "result"}), ("_flush_folder", {"result"})])
def test_writing_that_flushes_less_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: str, lost: set):
    with monkeypatch.context() as patch:
        seen = watched(tmp_path / "runs", patch)
        patch.setattr(disk, flush, Path.write_bytes if flush == "_write_and_flush" else lambda folder: None)
        some_writing(tmp_path / "runs")
    assert all_faults(seen, tmp_path / "left")[1] == lost


def results(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("small/*/*/scores.safetensors")}


def continued(tmp_path: Path, patch: pytest.MonkeyPatch, manifest: str, times: int) -> None:
    """A run whose machine loses its power, so many times at random; each continues to the end of the run itself."""
    (models_in(tmp_path) / "study.yaml").write_text(manifest)
    study = load(tmp_path / "study.yaml")
    with patch.context() as watching:
        watching.setattr(os, "getpid", lambda: GONE)
        seen = watched(tmp_path / "runs", watching)
        list(run(plan(study), tmp_path / "runs"))
    whole, draw = results(tmp_path / "runs"), Random(times)
    assert len(whole) == manifest.count("method: ")
    for moment in draw.sample(seen.moments, times):
        left = put(draw.choice((moment.lost(), moment.empty(), moment.some(draw))), tmp_path / "left")
        check_whole(left)
        list(run(plan(study), left))
        assert results(left) == whole
        assert not list(left.rglob(f"{disk.TEMPORARY}*"))
        for path in left.glob("small/*/chunks.json"):
            assert json.loads(path.read_bytes())


def test_a_run_continues_after_a_power_cut_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    continued(tmp_path, monkeypatch, SMALL, 3)


@pytest.mark.slow
def test_a_run_of_every_method_continues_after_each_of_sixty_power_cuts(tmp_path: Path, monkeypatch):
    continued(tmp_path, monkeypatch, MANIFEST, 60)
