"""Whatever becomes of a file of a run: it is named and made again, or nothing depends on it; nothing crashes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnsight_et.api.runs import open_run
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.remote.journal import Journal, JournalEntry
from nnsight_et.results import disk
from nnsight_et.results.disk import write_json
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Store
from nnsight_et.runner.run import run
from tests.helpers.commands import STUDY
from tests.helpers.hostile import Answer, said
from tests.helpers.killing import GONE
from tests.helpers.methods_study import models_in

MANIFEST = STUDY.replace("boxes: 3", "boxes: 2, objects: [book, car, paper, letter]")
LEFT = f"{disk.TEMPORARY}{disk._host()}-{GONE}-abcdef01"
FILES = {
    "found/result.json": "found",
    "found/scores.safetensors": "found",
    "table1/result.json": "table1",
    "table1/scores.safetensors": "table1",
    "chunks.json": "chunks.json",
    "smaller.json": "smaller.json",
    "report.html": "",
    ".lock": "",
    ".holder": "",
    LEFT: "",
}
"""Every file of a run's folder -> what is named if it is damaged; nothing where nobody reads it."""
CELL = "store"


def flipped(content: bytes, path: Path) -> bytes:
    place = len(content) // 2 if path.suffix != ".safetensors" else len(content) - 1
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


HARMS: dict[str, Callable[[bytes, Path], bytes | None]] = {
    "cut": lambda content, path: content[: len(content) // 2],
    "flipped": flipped,
    "emptied": lambda content, path: b"",
    "foreign": lambda content, path: b"PK\x03\x04" + os.urandom(200),
    "nested": lambda content, path: b"[" * 100_000,
    "a folder": lambda content, path: None,
}


def harmed(path: Path, how: str) -> None:
    content = HARMS[how](path.read_bytes() or b"\0", path)
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with all that runs may leave in its folder; only read."""
    folder = models_in(tmp_path_factory.mktemp("damaged"))
    (folder / "study.yaml").write_text(MANIFEST)
    study = load(folder / "study.yaml")
    list(run(plan(study), folder / "runs"))
    place = folder_of(folder / "runs", plan(study))
    assert said("report", place).code == 0
    write_json(place / "smaller.json", {"one/float32": {"tokens": 1 << 16, "experiments": []}})
    (place / ".holder").write_text(f'{{"pid": {GONE}, "host": "here"}}')
    (place / LEFT).write_bytes(b"half")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of its results, to change."""
    return shutil.copytree(finished / "runs", tmp_path / "runs")


def scores(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("small/*/*/scores.safetensors")}


def continued(finished: Path, out: Path) -> Answer:
    answer = said("run", finished / "study.yaml", "--out", out)
    assert "Traceback" not in answer.err
    if answer.code == 0:
        assert scores(out) == scores(finished / "runs")
        assert not list(out.rglob(f"{disk.TEMPORARY}*"))
    return answer


def test_these_are_all_the_files_of_a_run(finished):
    (folder,) = (finished / "runs").glob("small/*")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES.keys()
    assert {path.name for path in (finished / "runs").iterdir()} == {"small", CELL}


CASES = [
    pytest.param(name, how, marks=() if (row - column) % len(HARMS) == 0 else pytest.mark.slow)
    for row, name in enumerate(FILES)
    for column, how in enumerate(HARMS)
]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_damaged_file_is_named_and_made_again_or_of_no_account(finished, copied, name, how):
    (folder,) = copied.glob("small/*")
    harmed(folder / name, how)
    if name in ("chunks.json", "smaller.json"):
        shutil.rmtree(folder / "table1")  # they are read where something is measured, or put together
    assert said("report", folder).code == (1 if (name, how) == ("report.html", "a folder") else 0)
    assert len(open_run(folder)) == (1 if "/" in name or not (folder / "table1").exists() else 2)
    answer = continued(finished, copied)
    if how == "a folder" and name in (".lock", "report.html"):
        assert (answer.code, "cannot be written (Is a directory)" in answer.err) == (1, True)  # nobody's work is lost
        return
    assert answer.code == 0, answer
    assert (f"{folder / FILES[name]}: damaged; computing it again" in answer.err) == bool(FILES[name])
    assert ("damaged" in answer.err) == bool(FILES[name])
    assert "damaged" not in continued(finished, copied).err


@pytest.mark.parametrize(
    "how", [one if one == "flipped" else pytest.param(one, marks=pytest.mark.slow) for one in HARMS]
)
def test_a_damaged_cell_is_named_and_measured_again(finished, copied, how):
    for path in copied.glob("small/*/*/"):
        shutil.rmtree(path)
    whole = {path: path.read_bytes() for path in sorted(copied.glob("store/*/*.safetensors"))}
    for path in whole:
        harmed(path, how)
    answer = continued(finished, copied)
    if how == "a folder":
        assert (answer.code, "cannot be written (Is a directory)" in answer.err) == (1, True)
        return
    assert answer.code == 0, answer
    for path, content in whole.items():
        assert f"{path}: damaged; computing it again" in answer.err
        assert path.read_bytes() == content


def test_a_file_where_a_result_or_the_cells_belong_is_replaced_or_told(finished, copied):
    (found,) = copied.glob("small/*/found")
    shutil.rmtree(found)
    found.write_bytes(b"a note")
    answer = continued(finished, copied)
    assert (answer.code, f"{found}: damaged" in answer.err) == (0, True)
    shutil.rmtree(copied / CELL)
    (copied / CELL).write_bytes(b"a note")
    shutil.rmtree(found)
    assert (continued(finished, copied).code, (copied / CELL).read_bytes()) == (2, b"a note")


ENTRY = JournalEntry("id", "abc", "https://host", "found", ("one", "two"), "accepted")


@pytest.mark.parametrize("how", [how for how in HARMS if how != "a folder"])
@pytest.mark.parametrize("name", ["abc.json", "abc"])
def test_a_damaged_job_of_a_server_is_named_and_done_again(tmp_path, name, how):
    journal = Journal(tmp_path / "jobs")
    journal.write(ENTRY)
    journal.keep(ENTRY, b"a result")
    assert (journal.sweep(), journal.find("https://host", ["two"]), journal.result(ENTRY)) == ([], ENTRY, b"a result")
    harmed(tmp_path / "jobs" / name, how)
    assert journal.result(ENTRY) == (None if name == "abc" else b"a result")
    assert journal.find("https://host", ["two"]) == (None if name == "abc.json" else ENTRY)
    named = {tmp_path / "jobs" / name, tmp_path / "jobs" / "abc"}  # a result without its job is of no use
    assert set(journal.sweep()) == named
    assert list((tmp_path / "jobs").iterdir()) == ([] if name == "abc.json" else [tmp_path / "jobs" / "abc.json"])


def test_a_job_of_another_name_is_none(tmp_path):
    """Its name is that of files, which are removed."""
    write_json(tmp_path / "jobs" / "abc.json", {**vars(ENTRY), "file": "../../precious"})
    journal = Journal(tmp_path / "jobs")
    assert not list(journal.entries())
    assert journal.sweep() == [tmp_path / "jobs" / "abc.json"]


def test_a_damaged_cell_is_noted_once_and_a_missing_one_is_not(tmp_path):
    store = Store(tmp_path)
    store.write_cell("abc", {"x": torch.arange(3)})
    path = tmp_path / "store" / "ab" / "abc.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert [store.cell("abc"), store.cell("abc"), store.cell("abd")] == [None] * 3
    assert store.damaged == [path]


def test_what_other_machines_left_half_written_is_removed_after_a_day(tmp_path):
    for name, age in (("new", 0), ("old", 90_000)):
        leftover = tmp_path / f"{disk.TEMPORARY}{name}-1-0"
        leftover.write_bytes(b"half")
        os.utime(leftover, (leftover.stat().st_mtime - age,) * 2)
    disk.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{disk.TEMPORARY}new-1-0"]
