"""The method that CONTRIBUTING.md adds as an example: it runs, and whatever of it is left out is an error at import."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small_study import fresh_study

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n# (nnsight_et/\S+)\n(.*?)```", re.DOTALL)
IMPORT_EACH = """
import json, os, sys, traceback
import nnsight, peft, torch, transformers  # once: each attempt is a fork of this
found = {}
for what, place, text in json.load(sys.stdin):
    whole = open(place).read()
    open(place, "w").write(text)
    reader, writer = os.pipe()
    if os.fork() == 0:
        said = "imported"
        try:
            from nnsight_et.methods import METHODS
            [one.experiment() for one in METHODS.values()]
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    found[what] = os.read(reader, 10000).decode()
    open(place, "w").write(whole)
print(json.dumps(found))
"""
RECORD = ("name", "spec", "summary", "cost", "section", "experiment")
EXPERIMENT = ("check", "measure", "audit", "headline", "tables", "figures", "metrics", "heads", "paper", "statements")
RUN = """
import json, sys
from pathlib import Path
from nnsight_et.manifest import load
from nnsight_et.planning.plan import plan
from nnsight_et.report.results import metric_rows, tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.runner.run import run
jobs = plan(load(Path("study.yaml")))
list(run(jobs, Path("runs")))
result = read_result(folder_of(Path("runs"), jobs) / "sure")
print(json.dumps([result.header.summary, tables(result.header)[0].rows, [row.value for row in metric_rows(result)],
                  result.scores["probability"].tolist(), [one.check for one in result.header.self_check.checks]]))
"""


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path}: {old!r} is there {text.count(old)} times"
    path.write_text(text.replace(old, new))


def listed(package: Path) -> None:
    """The two lines that name the method."""
    experiments = package / "manifest" / "experiments.py"
    replaced(experiments, "    | Attribution\n", "    | Attribution\n    | Certainty\n")
    line = "from nnsight_et.manifest.methods.cmap import CMAP\n"
    replaced(experiments, line, f"from nnsight_et.manifest.methods.certainty import Certainty\n{line}")
    methods = package / "methods" / "__init__.py"
    replaced(methods, "    attribution,\n    cmap,\n", "    attribution,\n    certainty,\n    cmap,\n")
    replaced(methods, "        attribution,\n    )", "        attribution,\n        certainty,\n    )")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package with the method in it."""
    copy = tmp_path / "nnsight_et"
    shutil.copytree(ROOT / "nnsight_et", copy, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    (copy / "zoo" / "embedded").symlink_to(ROOT / "nnsight_et" / "zoo" / "embedded")
    blocks = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert len(blocks) == 4
    for name, code in blocks.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    listed(copy)
    return copy


def python(package: Path, code: str, where: Path, said: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=where, env=environment, capture_output=True, text=True, input=said
    )


def test_the_example_of_a_method_runs(package: Path, tmp_path: Path):
    root = fresh_study(tmp_path / "study")
    text = (root / "study.yaml").read_text().partition("experiments:")[0]
    (root / "study.yaml").write_text(f"{text}experiments:\n  sure: {{method: certainty, model: one, examples: 9}}\n")
    done = python(package, RUN, root)
    assert done.returncode == 0, done.stderr
    summary, rows, metrics, every, checks = json.loads(done.stdout)
    assert len(every) == 9
    assert summary == {"probability": pytest.approx(sum(every) / 9), "example": summary["example"]}
    assert rows == [[f"{summary['probability']:.3f}"]]
    assert metrics == [summary["probability"]]
    assert {"reference engine", "recount"} <= set(checks)


def test_whatever_is_left_out_of_a_method_is_an_error_at_import(package: Path, tmp_path: Path):
    folder = package / "methods" / "certainty"
    attempts: list[tuple[str, Path, str]] = []
    for place, fields in ((folder / "__init__.py", RECORD), (folder / "experiment.py", EXPERIMENT)):
        attempts += [(field, place, rf"\n    {field}=[^\n]*,(?=\n)") for field in fields]
    spec = package / "manifest" / "methods" / "certainty.py"
    attempts += [
        (name, spec, rf"\n    {name}: ClassVar\[bool\][^\n]*") for name in ("finds_circuit", "needs_desiderata")
    ]
    attempts.append(("scores", folder / "summary.py", r"\n    scores: ClassVar = [^\n]*"))
    attempts.append(("problems", spec, r"\n    def problems.*"))
    attempts.append(("template", spec, r'\n    template: .*?"""\n.*?"""'))
    attempts.append(("the list", package / "methods" / "__init__.py", r"\n        certainty,"))
    attempts.append(("the union", package / "manifest" / "experiments.py", r"\n    \| Certainty"))
    texts = [("nothing", str(spec), spec.read_text())]
    for what, place, pattern in attempts:
        without, count = re.subn(
            pattern,
            "",
            place.read_text(),
            count=1,
            flags=re.DOTALL if place == spec and "ClassVar" not in pattern else 0,
        )
        assert count == 1, what
        texts.append((what, str(place), without))
    done = python(package, IMPORT_EACH, tmp_path, json.dumps(texts))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("nothing") == "imported"
    assert len(found) == len(attempts)
    assert {what: said for what, said in found.items() if not said.startswith("TypeError")} == {}
