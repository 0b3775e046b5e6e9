"""The project's files keep their own rules: packages, documents, versions, and no trace of a machine."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nnsight_et_cli
import pytest
import typer
from ruamel.yaml import YAML

from nnsight_et import __version__
from nnsight_et.manifest import load
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.planning.plan import plan

ROOT = Path(__file__).parents[2]
SKIPPED = {".git", ".venv", ".ndif", "build", "dist", "runs", "__pycache__"}


def files(*endings: str) -> Iterator[Path]:
    """The project's own files with one of these endings."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.endswith((".egg-info", "_cache"))]
        yield from (Path(folder) / name for name in names if name.endswith(endings))


CODE = sorted(path for path in files(".py") if path.relative_to(ROOT).parts[0] in ("nnsight_et", "cli"))
PROJECT: dict = tomllib.loads((ROOT / "pyproject.toml").read_text())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_a_drawer_and_nothing_is_left_to_write():
    assert [named(path) for path in CODE if path.stem in ("utils", "common", "helpers", "types")] == []
    assert [named(path) for path in CODE if "NotImplementedError" in path.read_text(encoding="utf-8")] == []


def test_no_file_knows_a_machine():
    machine = re.compile(r"(?<![\w.~])/(work|root|farm|home|Users|tmp)/")
    for path in files(".py", ".md", ".yaml", ".toml", ".txt", ".json", "Makefile", "run"):
        found = machine.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{named(path)}: {found[0] if found else ''}"


def test_every_folder_with_code_is_a_package():
    assert {path.parent for path in CODE} == {path.parent for path in CODE if path.name == "__init__.py"}


def test_every_dependency_has_a_lower_bound_and_a_tested_version():
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(entry for extra in extras.values() for entry in extra)]
    assert {entry for extra in extras.values() for entry in extra} <= set(extras["dev"]), "dev has all that tests need"
    names = {re.split(r"[\[>=]", entry)[0].lower(): entry for entry in wanted}
    assert all(">=" in entry for entry in names.values())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert set(names) <= tested, set(names) - tested
    assert all("+" not in line and "@" not in line for line in lines if not line.startswith("#"))


def test_the_readme_shows_targets_and_the_overview_all_commands():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE))
    assert {"run", "test"} <= used <= targets
    overview = (ROOT / "docs" / "commands.md").read_text()
    commands = set(re.findall(r"^et ([a-z-]+)", overview, re.MULTILINE))
    assert commands == set(typer.main.get_command(nnsight_et_cli.app).commands)  # type: ignore[attr-defined]


def test_the_readmes_lines_of_python_print_what_it_says(capsys: pytest.CaptureFixture[str]):
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == re.findall(r"```text\n(.*?)```", readme, re.DOTALL)[0]


def test_the_manifest_in_the_readme_is_one(tmp_path: Path):
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert examples
    for index, text in enumerate(examples):
        path = tmp_path / f"{index}.yaml"
        path.write_text(text)
        assert plan(load(path)).jobs


def test_the_main_manifest_can_be_planned():
    jobs = plan(load(ROOT / "experiments.yaml")).jobs
    assert {"path_patching", "faithfulness"} <= {job.spec.method for job in jobs} <= set(METHODS)


def test_the_changelog_knows_this_version():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_is_of_this_version_and_of_the_paper():
    text = (ROOT / "CITATION.cff").read_text()
    citation = YAML(typ="safe", pure=True).load(text)
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert (citation["version"], citation["license"]) == (__version__, PROJECT["project"]["license"])
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Prakash", "Shaham", "Haklay", "Belinkov", "Bau"]
    assert paper["title"].startswith("Fine-Tuning Enhances Existing Mechanisms")
    assert paper["year"] == 2024


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make test", "exec make lint types docs"} <= set(script.read_text().splitlines())
