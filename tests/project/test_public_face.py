"""What strangers see first: exported names, metadata, the changelog's dates, and files for editors and forges."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from pathlib import Path
from traceback import format_exception_only

import pytest
from ruamel.yaml import YAML

import nnsight_et
from nnsight_et import api

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", re.MULTILINE)


def test_every_exported_name_is_there_once_and_documented():
    assert nnsight_et.__all__ == sorted(set(nnsight_et.__all__)) == api.__all__
    assert set(dir(nnsight_et)) == {*nnsight_et.__all__, "__version__"}
    for name in nnsight_et.__all__:
        assert getattr(nnsight_et, name) is getattr(api, name)
        assert (getattr(api, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match=r"no attribute 'path_patching'; did you mean 'path_patch'\?") as raised:
        _ = nnsight_et.path_patching
    assert "".join(format_exception_only(raised.value)).count("path_patch'") == 1


def test_the_version_is_the_newest_dated_one_of_the_changelog_and_of_the_citation():
    releases = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(releases) == len([heading for heading in headings if heading != "## Unreleased"])
    assert releases[0][0] == nnsight_et.__version__
    days = [date.fromisoformat(day) for _, day in releases]
    assert days == sorted(days, reverse=True)
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    assert (str(citation["version"]), str(citation["date-released"])) == releases[0]


def test_the_package_says_what_it_is():
    assert {"mechanistic interpretability", "path patching", "circuits"} <= set(PROJECT["keywords"])
    assert all(address.startswith("https://") for address in PROJECT["urls"].values())
    assert any(one.startswith("Development Status ::") for one in PROJECT["classifiers"])
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "nnsight_et" / "py.typed").exists()


def test_editors_find_the_schema_of_every_manifest_of_the_repository():
    settings = json.loads((ROOT / ".vscode" / "settings.json").read_text())
    ((schema, patterns),) = settings["yaml.schemas"].items()
    assert json.loads((ROOT / schema).read_text())["title"] == "nnsight_et manifest"
    places = ("[a-z]*.yaml", "examples/**/*.yaml", "docs/**/*.yaml", "nnsight_et/**/*.yaml")
    assert {path for pattern in patterns for path in ROOT.glob(pattern)} == {
        path for place in places for path in ROOT.glob(place)
    }


def test_files_for_forges_and_hooks_are_whole_and_run_what_there_is():
    yaml = YAML(typ="safe")
    workflow = yaml.load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert commands == ["bash .ci/run"]
    assert (ROOT / ".ci" / "run").exists()
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert {"name", "description", "body"} <= set(yaml.load(form.read_text()))
    (repo,) = yaml.load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith((".venv/bin/ruff ", ".venv/bin/et "))
