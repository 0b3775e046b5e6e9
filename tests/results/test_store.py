from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from nnsight_et.core.errors import ResultError
from nnsight_et.planning.plan import digest
from nnsight_et.results import disk
from nnsight_et.results.headers import read_header
from nnsight_et.results.store import Result, Store, read_result, write_result
from tests.helpers.summaries import header_of

TENSORS = {
    "b": torch.arange(12, dtype=torch.float64).unflatten(0, (3, 4)) / 7,
    "a": torch.tensor(True),
    "empty": torch.zeros(0, 3),
    "half": torch.arange(6).to(torch.bfloat16).unflatten(0, (2, 3)).T,
}


def a_result(**changes: Any) -> Result:
    header = header_of("path_patching", {"rows": [{"mean": 0.1 + 0.2, "std": float("nan")}]})
    return Result(header.model_copy(update=changes), TENSORS)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{disk.TEMPORARY}*"))


def test_a_cell_comes_back_as_it_was_written(tmp_path: Path):
    store = Store(tmp_path)
    assert store.cell("abc") is None
    store.write_cell("abc", TENSORS)
    cell = store.cell("abc")
    assert cell is not None
    assert set(cell) == set(TENSORS)
    assert all(torch.equal(cell[name], TENSORS[name]) and cell[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "store/ab/abc.safetensors"
    ]


def test_a_cell_with_any_byte_changed_or_the_end_cut_off_is_absent(tmp_path: Path):
    store = Store(tmp_path)
    store.write_cell("abc", {"x": torch.arange(1.0, 4.0), "y": torch.tensor([7])})
    path = next(tmp_path.rglob("*.safetensors"))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        cell = store.cell("abc")
        assert cell is None or set(cell) == {"x", "y"}  # a flip in the padding of the header changes no tensor
        if cell is not None:
            assert torch.equal(cell["x"], torch.arange(1.0, 4.0))
            assert torch.equal(cell["y"], torch.tensor([7]))
        path.write_bytes(whole[:place])
        assert store.cell("abc") is None


def test_the_same_tensors_are_the_same_bytes_in_any_order(tmp_path: Path):
    for name, tensors in (("one", TENSORS), ("two", dict(reversed(TENSORS.items())))):
        Store(tmp_path / name).write_cell("abc", tensors)
        write_result(tmp_path / name / "result", Result(a_result().header, tensors))
    for file in ("store/ab/abc.safetensors", "result/scores.safetensors", "result/result.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_result_comes_back_as_it_was_written_with_null_for_nan(tmp_path: Path):
    write_result(tmp_path / "found", a_result())
    result = read_result(tmp_path / "found")
    assert result.header.summary == {"rows": [{"mean": 0.1 + 0.2, "std": None}]}
    assert all(torch.equal(result.scores[name], TENSORS[name]) for name in TENSORS)
    assert not leftovers(tmp_path)


def test_a_result_takes_the_place_of_an_earlier_one(tmp_path: Path):
    write_result(tmp_path / "found", a_result(seconds=1.0))
    write_result(tmp_path / "found", a_result(seconds=2.0))
    assert read_header(tmp_path / "found").seconds == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["found"]


def test_a_damaged_result_is_named(tmp_path: Path):
    write_result(tmp_path / "found", a_result())
    for name in ("result.json", "scores.safetensors"):
        path = tmp_path / "found" / name
        whole = path.read_bytes()
        damages = [b"", whole[:-5], whole.replace(b"1", b"7", 1), b"[]", b"[" * 100_000, None]
        for damage in damages:
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            with pytest.raises(ResultError, match=name):
                read_result(tmp_path / "found")
        path.write_bytes(whole)
    assert read_result(tmp_path / "found")


def test_a_result_with_half_a_character_is_named(tmp_path: Path):
    write_result(tmp_path / "found", a_result())
    path = tmp_path / "found" / "result.json"
    data = json.loads(path.read_text()) | {"summary": {"\ud800": 1}}
    del data["digest"]
    path.write_text(json.dumps(data | {"digest": digest(data)}))
    with pytest.raises(ResultError, match=r"result.json: not JSON \(.*surrogates not allowed"):
        read_header(tmp_path / "found")


def test_a_result_of_another_schema_is_named(tmp_path: Path):
    write_result(tmp_path / "found", a_result())
    path = tmp_path / "found" / "result.json"
    written = json.loads(path.read_text())
    for schema, said in (
        (99, "schema 99, of a later version of nnsight_et; accepted: 2"),
        (1, "schema 1, of an earlier version of nnsight_et; accepted: 2"),
        (0, "schema 0; accepted"),
        (None, "schema None; accepted"),
        (True, "schema True; accepted"),
        ("2", "schema 2; accepted"),
    ):
        path.write_text(json.dumps(written | {"schema_version": schema}))
        with pytest.raises(ResultError, match=rf"result\.json: {said}"):
            read_result(tmp_path / "found")
    path.write_text("[]")
    with pytest.raises(ResultError, match=r"result\.json: schema None; accepted: 2"):
        read_header(tmp_path / "found")


def test_a_disk_that_refuses_is_a_clear_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_result(tmp_path / "found", a_result())

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_write_and_flush", full)
    with pytest.raises(ResultError, match=r"No space left on device.*intact"):
        write_result(tmp_path / "found", a_result(seconds=9.0))
    with pytest.raises(ResultError, match="No space left"):
        Store(tmp_path).write_cell("abc", TENSORS)
    monkeypatch.undo()
    assert read_header(tmp_path / "found").seconds == 1.5
    assert not leftovers(tmp_path)


def test_a_folder_is_held_by_one_process_and_the_second_is_told_which(tmp_path: Path):
    code = """
        import sys; from pathlib import Path; from nnsight_et.results.store import Store
        with Store(Path()).writing(Path(sys.argv[1])):
            print("held", flush=True); sys.stdin.read()
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ResultError, match=f"process {holder.pid} on "), Store(tmp_path).writing(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with Store(tmp_path).writing(tmp_path):  # what a killed process held is free
            assert (tmp_path / disk.HOLDER).is_file()
    assert not (tmp_path / disk.HOLDER).exists()


def test_what_killed_writers_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = disk._host()
    dead = [
        tmp_path / "run" / f"{disk.TEMPORARY}{host}-{gone.pid}-0",
        tmp_path / "store" / "ab" / f"{disk.TEMPORARY}{host}-{gone.pid}-0",
    ]
    alive = [
        tmp_path / "run" / f"{disk.TEMPORARY}{host}-{os.getpid()}-0",
        tmp_path / "run" / f"{disk.TEMPORARY}elsewhere-{gone.pid}-0",
    ]
    for path in dead + alive:
        path.mkdir(parents=True)
        (path / "scores.safetensors").write_bytes(b"half")
    Store(tmp_path).sweep(tmp_path / "run")
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive)
