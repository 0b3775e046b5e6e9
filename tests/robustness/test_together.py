"""Several processes at one run: one writes, any may read, and a process that is gone holds nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from nnsight_et.core.errors import ResultError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.results import disk, store
from nnsight_et.results.disk import one_writer
from nnsight_et.results.headers import folder_of, read_header
from nnsight_et.results.store import Result, ResultHeader, read_result, write_result
from nnsight_et.runner.run import run
from tests.helpers.commands import STUDY
from tests.helpers.hostile import said
from tests.helpers.killing import FORKS, GONE
from tests.helpers.methods_study import models_in
from tests.results.test_store import a_result

MANIFEST = STUDY.replace("boxes: 3", "boxes: 2, objects: [book, car, paper, letter]")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest that has not been run."""
    folder = models_in(tmp_path_factory.mktemp("together"))
    (folder / "study.yaml").write_text(MANIFEST)
    return folder


def stepping(study: Path, out: Path, pipe: Connection) -> None:
    """A run that says what it has done and waits for a word before it goes on; nothing more is said at its end."""
    sys.stderr = (out.parent / "stderr").open("w")
    with pipe:
        for step in run(plan(load(study / "study.yaml")), out):
            pipe.send((step.experiment, step.done, step.total))
            pipe.recv()


class Held:
    """Such a run in a process of its own."""

    def __init__(self, study: Path, out: Path) -> None:
        self.pipe, other = FORKS.Pipe()
        self.process: BaseProcess = FORKS.Process(target=stepping, args=(study, out, other), daemon=True)
        self.process.start()
        other.close()

    def steps(self) -> Iterator[tuple[str, int, int]]:
        """What it does, while it waits after each."""
        with suppress(EOFError):
            while True:
                yield self.pipe.recv()
                self.pipe.send("go on")
        self.process.join()
        assert self.process.exitcode == 0


def exported(folder: Path) -> set[str]:
    with (folder / "experiments.csv").open(encoding="utf-8") as file:
        return {row["experiment"] for row in csv.DictReader(file)}


def test_readers_read_what_is_finished_while_a_run_writes_and_a_second_run_is_refused(study, tmp_path):
    out, seen = tmp_path / "runs", list[set[str]]()
    folder = folder_of(out, plan(load(study / "study.yaml")))
    held = Held(study, out)
    for experiment, done, total in held.steps():
        there = {path.parent.name for path in folder.glob("*/result.json")}
        if there in seen or done != total or not total:  # the step that ends an experiment has no cells
            continue
        seen.append(there)
        refused = said("run", study / "study.yaml", "--out", out)
        assert refused.code == 1, experiment
        assert f"process {held.process.pid} on {socket.gethostname()} is running in it" in refused.err
        assert said("plan", study / "study.yaml", "--out", out).code == 0
        codes = [said("report", folder).code, said("diff", folder, folder).code]
        codes.append(said("export", folder, "--to", tmp_path / "tables").code)
        assert codes == ([0, 0, 0] if there else [2, 2, 2])
        assert not there or exported(tmp_path / "tables") == there
    assert seen == [set(), {"found"}]
    assert {path.parent.name for path in folder.glob("*/result.json")} == {"found", "table1"}
    assert said("run", study / "study.yaml", "--out", out).code == 0


def test_what_a_killed_run_held_is_free_though_another_process_has_its_number(study, tmp_path):
    out = tmp_path / "runs"
    held = Held(study, out)
    next(held.steps())
    os.kill(held.process.pid or 0, signal.SIGKILL)
    held.process.join()
    (holder,) = out.glob("small/*/.holder")
    assert json.loads(holder.read_bytes())["pid"] == held.process.pid
    for content in (None, {"pid": os.getpid(), "host": socket.gethostname()}, {"pid": 7, "host": "elsewhere"}):
        if content is not None:
            holder.write_text(json.dumps(content))
        assert said("run", study / "study.yaml", "--out", out).code == 0
        assert not holder.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps({"pid": 7, "host": "node\u202e3"}), r"process 7 on node\\u202e3 is"),
        (json.dumps({"pid": GONE, "host": socket.gethostname()}), "another process is"),  # of the run before
        ("", "another process is"),
        ("[" * 100_000, "another process is"),
        ('{"pid": "x", "host": 3}', "another process is"),
        ("[7]", "another process is"),
    ],
)
def test_the_holder_is_named_where_it_can_be(tmp_path: Path, content: str, told: str):
    with one_writer(tmp_path):
        (tmp_path / disk.HOLDER).write_text(content)
        with pytest.raises(ResultError, match=told), one_writer(tmp_path):
            pass


def taking(folder: Path, times: int) -> None:
    """Hold the folder as often as it can be had; fails if somebody else holds it too."""
    held = 0
    while held < times:
        with suppress(ResultError), one_writer(folder):
            held += 1
            os.close(os.open(folder / "taken", os.O_CREAT | os.O_EXCL))
            (folder / "taken").unlink()


def test_however_many_start_at_once_one_at_a_time_holds_a_folder(tmp_path: Path):
    processes = [FORKS.Process(target=taking, args=(tmp_path, 5)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3


def test_a_result_that_is_replaced_while_it_is_read_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = a_result()
    new = Result(a_result(seconds=2.0).header, {"a": torch.tensor(False)})
    write_result(tmp_path / "found", old)
    reads = []

    def replaced(folder: Path) -> ResultHeader:
        found = read_header(folder)
        if not reads:
            write_result(folder, new)
        reads.append(found.seconds)
        return found

    monkeypatch.setattr(store, "read_header", replaced)
    found = read_result(tmp_path / "found")
    assert (found.header.seconds, set(found.scores), reads) == (2.0, {"a"}, [1.5, 2.0])


def test_at_every_moment_of_its_replacement_a_result_is_old_or_new_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def looking(whole):
        def looked(*arguments, **options):
            try:
                seen.append(read_result(tmp_path / "found").header.seconds)
            except ResultError as error:
                seen.append("none" if "No such file" in str(error) else str(error))
            return whole(*arguments, **options)

        return looked

    write_result(tmp_path / "found", a_result(seconds=1.0))
    with monkeypatch.context() as patch:
        for name in ("mkdir", "rename", "unlink", "rmdir", "fsync"):
            patch.setattr(os, name, looking(getattr(os, name)))
        write_result(tmp_path / "found", a_result(seconds=2.0))
    assert list(dict.fromkeys(seen)) == [1.0, "none", 2.0]
