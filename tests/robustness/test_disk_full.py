"""A disk that is full or read-only: a message, everything finished intact, and the run continues when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnsight_et.results import disk
from tests.helpers.hostile import bytes_in, said

SIZE = 2 << 20
REFUSED = "cannot be written"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def scores(out: Path) -> dict[str, bytes]:
    """Every result's scores, by experiment."""
    return {path.parent.name: path.read_bytes() for path in out.glob("small/*/*/scores.safetensors")}


def fill(place: Path, room: int) -> Path:
    """A file that leaves so many bytes of the disk, whole pages of it."""
    ballast = place / "ballast"
    free = int(subprocess.check_output(["stat", "-f", "-c", "%f", place])) * int(
        subprocess.check_output(["stat", "-f", "-c", "%S", place])
    )
    ballast.write_bytes(b"x" * max(free - room, 0))
    return ballast


def refused(*arguments: object) -> str:
    """What a command says that cannot write."""
    answer = said(*arguments)
    assert answer.code == 1, answer
    assert REFUSED in answer.err
    assert "Traceback" not in answer.err
    return answer.err


def test_a_run_on_a_full_disk_stops_with_a_message_and_continues_when_there_is_room(written, small, tmp_path):
    assert said("run", written, "--out", tmp_path / "calm").code == 0
    stops, kept = 0, dict[Path, bytes]()
    for room in (0, 16384, 65536):
        ballast = fill(small, room)
        answer = said("run", written, "--out", small / "runs")
        stops += answer.code != 0
        if answer.code:
            assert answer.code == 1, answer
            assert "No space left on device" in answer.err, answer
        ballast.unlink()
        now = {path: content for path, content in bytes_in(small).items() if path.suffix == ".safetensors"}
        assert kept.items() <= now.items()  # what was finished before is there, byte by byte
        assert not list(small.rglob(f"{disk.TEMPORARY}*"))
        kept = now
    assert stops >= 2
    assert said("run", written, "--out", small / "runs").code == 0
    assert scores(small / "runs") == scores(tmp_path / "calm")


def test_a_read_only_disk_is_a_message_and_what_is_on_it_can_be_read(written, small, tmp_path):
    assert said("run", written, "--only", "found", "--out", small / "runs").code == 0
    before = bytes_in(small)
    folder = next((small / "runs").glob("small/*"))
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for command in (("run", written, "--out", small / "runs"), ("report", folder), ("export", folder)):
        assert "Read-only file system" in refused(*command)
    assert said("plan", written, "--out", small / "runs").code == 0
    assert said("diff", folder, folder).code == 0
    assert said("export", folder, "--to", tmp_path / "tables").code == 0
    assert bytes_in(small) == before
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    assert said("run", written, "--out", small / "runs").code == 0
    assert before.keys() <= bytes_in(small).keys()
