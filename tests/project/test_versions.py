"""The lowest and newest allowed versions of what is depended on; `make test-lowest`, `make test-newest` run all tests.

torch is the one that is here: another one is gigabytes. What is newest changes from day to day, so `make test` leaves
these out, and `make test-versions` runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from uv import find_uv_bin

from tests.helpers.commands import ROOT

ASKED = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
BOUNDS = {canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in ASKED}
FEW = ("runner/test_run.py", "models/test_architectures.py::test_parts_add_up_in_every_dtype")
pytestmark = pytest.mark.registry
VERSIONS = """
import json
from importlib.metadata import version
import numpy, peft, pydantic, rich, torch, transformers, typer
there = {one.__name__: one.__version__ for one in (numpy, peft, pydantic, torch, transformers)}
print(json.dumps(there | {name: version(name) for name in ("nnsight", "rich", "typer")}))
"""


def uv(*arguments: object) -> None:
    """Skips where packages cannot be had."""
    done = subprocess.run([find_uv_bin(), "--quiet", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode and re.search("error sending request|dns error|timed out", done.stderr, re.IGNORECASE):
        pytest.skip("packages cannot be had here")
    assert done.returncode == 0, done.stderr


def python(folder: Path, *arguments: object) -> str:
    """What a Python prints that has the packages in the folder, and from here what is not in it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    environment = clean | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_a_few_tests_pass_with_the_lowest_and_the_newest_versions(resolution: str, tmp_path: Path):
    folder, wanted, out = tmp_path / "packages", tmp_path / "wanted.txt", tmp_path / "excluded.txt"
    out.write_text("torch\n")
    choice = ("--resolution", resolution, "--excludes", out, "--python", sys.executable)
    uv("pip", "compile", "pyproject.toml", *choice, "--output-file", wanted)
    uv("pip", "install", "--target", folder, "--no-deps", "--python", sys.executable, "--requirement", wanted)
    there = json.loads(python(folder, "-c", VERSIONS))
    asked = dict(line.split("==") for line in wanted.read_text().split() if "==" in line)
    assert {name: version for name, version in there.items() if name != "torch"}.items() <= asked.items()
    if resolution == "lowest-direct":
        found = {name: Version(asked[name]).release[:2] for name in BOUNDS if name != "torch"}
        assert found == {name: BOUNDS[name].release[:2] for name in found}
    last = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in FEW))
    assert re.search(r"\d+ passed", last), last
