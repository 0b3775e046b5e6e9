"""What is installed: the wheel has every module and data file of the package, and no other; it works on its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from nnsight_et import __version__
from tests.helpers.commands import ROOT

PLACES = {"nnsight_et": "nnsight_et", "cli": "nnsight_et_cli"}
"""Folder of the repository -> package."""
DATA = {".yaml", ".json", ".css", ".j2", ".js", ".safetensors", ".typed"}
ABOUT = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy as an installer builds it, without a network."""
    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PLACES, "tools", "tests", "benchmarks", "examples", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, source / "dist"], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def of_the_tree() -> dict[str, bytes]:
    """Every file of the packages, by its name in the wheel."""
    return {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes()
        for folder, package in PLACES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_packages_files_byte_by_byte_and_nothing_else(wheel: Path):
    about = f"nnsight_et-{__version__}.dist-info/"
    with ZipFile(wheel) as file:
        packed = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    described = {name.removeprefix(about): packed.pop(name) for name in list(packed) if name.startswith(about)}
    assert packed == of_the_tree()
    assert set(described) == ABOUT
    assert described["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert described["top_level.txt"].decode().split() == sorted(PLACES.values())
    assert wheel.stat().st_size < 10_000_000  # the embedded models are 8.5 million bytes of it


def test_what_is_in_it_is_code_data_and_the_embedded_models(wheel: Path):
    names = [name for name in of_the_tree() if not name.endswith(".py")]
    assert {Path(name).suffix for name in names} == DATA
    assert all(name.startswith("nnsight_et/zoo/embedded/") for name in names if name.endswith(".safetensors"))
    for needed in (
        "nnsight_et/manifest/shipped/tiny.yaml",
        "nnsight_et/manifest/shipped/paper.yaml",
        "nnsight_et/report/html/templates/page.html.j2",
        "nnsight_et/circuits/published/circuits.json",
        *(f"nnsight_et/zoo/embedded/{model}-tiny/model.safetensors" for model in ("llama", "vicuna", "float")),
        "nnsight_et/zoo/embedded/goat-tiny/adapter_model.safetensors",
    ):
        assert needed in names


def test_what_only_tests_and_makers_need_is_not_in_it(wheel: Path):
    with ZipFile(wheel) as file:
        names = file.namelist()
    assert "nnsight_et/py.typed" in names
    assert not [name for name in names if name.startswith(("tools/", "tests/", "cli/"))]
    for word in ("fault", "split_", "lessons", "family"):
        assert not [name for name in names if f"/{word}" in name and "/interventions/" not in name], word


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel in it, and the dependencies of this one."""
    place = tmp_path_factory.mktemp("installed") / "env"
    venv.create(place, with_pip=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def ran(command: list[object], folder: Path) -> str:
    """What a command prints, run outside the repository with nothing that points into it."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    surroundings = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=surroundings | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_installed_by_itself_it_runs_the_shipped_manifest_and_reports(installed: Path, tmp_path: Path):
    where = "import nnsight_et, nnsight_et_cli; print(nnsight_et.__file__, nnsight_et_cli.__file__)"
    assert all(str(installed.parent) in place for place in ran([installed / "python", "-c", where], tmp_path).split())
    assert ran([installed / "et", "--version"], tmp_path).strip().endswith(__version__)
    ran([installed / "et", "validate", "tiny"], tmp_path)
    ran([installed / "et", "run", "tiny", "--limit", "4", "--only", "table1", "--only", "table_a1"], tmp_path)
    (run,) = tmp_path.glob("runs/entity-tracking-tiny/*")
    assert {path.parent.name for path in run.glob("*/result.json")} == {"circuit", "minimal", "table1", "table_a1"}
    (run / "report.html").unlink()
    assert "report.html" in ran([installed / "et", "report", run], tmp_path)
    assert "faithfulness on llama-tiny" in (run / "report.html").read_text()
    assert (run / "report.html").stat().st_size > 50_000
    ran([installed / "et", "export", run, "--to", tmp_path / "tables"], tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("runs", "tables")] == []
