"""What a user must be told first: in a run's first lines, in its results, at the top of the report, and again later."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnsight_et.api.runs import open_run
from nnsight_et.core.errors import ResultError
from nnsight_et.core.notices import Notice
from nnsight_et.manifest import load
from nnsight_et.methods import METHODS
from nnsight_et.planning.plan import digest, plan
from nnsight_et.report.html import report_html
from nnsight_et.results.headers import read_header
from nnsight_et.results.store import read_result, write_result
from nnsight_et.results.study import study_in
from nnsight_et.runner.run import RunOptions, run
from tests.helpers.commands import et
from tests.helpers.small_study import STUDY, fresh_study

FIRST = Notice("bos", "one", "its prompts begin without <s>")
LATER = Notice("weights", "experiments.found", "something came up while it was measured")


def change(monkeypatch: pytest.MonkeyPatch, method: str, **functions: Any) -> None:
    """Put functions in place of a method's own."""
    changed = replace(METHODS[method].experiment(), **functions)
    monkeypatch.setitem(METHODS, method, replace(METHODS[method], experiment=lambda: changed))


def telling(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small study whose methods tell something: of both experiments before they run, of one of them during."""
    fresh_study(root)
    (root / "study.yaml").write_text(f"{STUDY}probe: off\n")
    found = METHODS["path_patching"].experiment()
    check, measure = found.check, found.measure

    def told_of_model(work, job):
        check(work, job)
        work.tell(job, FIRST)
        work.tell(job, FIRST)

    def told_while_measured(work, job):
        found = yield from measure(work, job)
        work.tell(job, LATER)
        return found

    change(monkeypatch, "path_patching", check=told_of_model, measure=told_while_measured)
    table_check = METHODS["faithfulness"].experiment().check
    change(monkeypatch, "faithfulness", check=lambda work, job: (table_check(work, job), work.tell(job, FIRST))[0])
    return root


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a study."""
    return telling(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has been run; only read."""
    with pytest.MonkeyPatch.context() as patch:
        root = telling(tmp_path_factory.mktemp("told"), patch)
        heard_of(root)
    return root


@pytest.fixture
def done(run_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(run_once, tmp_path / "done"))


def heard_of(root: Path, **options) -> list[Notice]:
    """What a run tells, up to its end."""
    heard: list[Notice] = []
    for _ in run(plan(load(root / "study.yaml")), root / "runs", options=RunOptions(on_notice=heard.append), **options):
        pass
    return heard


def folder_in(root: Path) -> Path:
    (folder,) = (root / "runs" / "study").iterdir()
    return folder


def test_a_notice_is_told_once_before_the_first_cell_and_is_in_the_results_it_is_about(told: Path):
    heard: list[Notice] = []
    steps = run(plan(load(told / "study.yaml")), told / "runs", options=RunOptions(on_notice=heard.append))
    next(steps)
    assert heard == [FIRST]
    for _ in steps:
        pass
    assert heard == [FIRST, LATER]
    assert read_header(folder_in(told) / "found").notices == (FIRST, LATER)
    assert read_header(folder_in(told) / "table1").notices == (FIRST,)


def test_results_that_are_there_tell_it_again(told: Path, monkeypatch: pytest.MonkeyPatch):
    heard_of(told)
    for method in ("path_patching", "faithfulness"):
        change(monkeypatch, method, check=lambda work, job: None)
    assert heard_of(told) == [FIRST, LATER]
    shutil.rmtree(folder_in(told) / "found")
    heard_of(told)
    assert read_header(folder_in(told) / "found").notices == (LATER,)


def test_what_is_told_changes_no_number_and_no_identity(done: Path, finished: Path):
    for name in ("found", "table1"):
        here, there = folder_in(done) / name, folder_in(finished) / name
        assert (here / "scores.safetensors").read_bytes() == (there / "scores.safetensors").read_bytes()
        one, other = read_header(here), read_header(there)
        assert (one.identity, one.summary, one.job) == (other.identity, other.summary, other.job)


def test_a_result_without_notices_says_nothing_of_them_in_its_file(done: Path):
    path = folder_in(done) / "table1"
    assert json.loads((path / "result.json").read_text())["notices"] == [vars(FIRST)]
    result = read_result(path)
    write_result(path, replace(result, header=result.header.model_copy(update={"notices": ()})))
    assert "notices" not in json.loads((path / "result.json").read_text())
    assert read_header(path).notices == ()


def test_a_result_whose_notices_are_none_is_refused(done: Path):
    path = folder_in(done) / "table1" / "result.json"
    data = json.loads(path.read_text()) | {"notices": [{"kind": "bos"}]}
    path.write_text(json.dumps(data | {"digest": digest({k: v for k, v in data.items() if k != "digest"})}))
    with pytest.raises(ResultError, match="notices"):
        read_header(folder_in(done) / "table1")


def test_the_report_has_it_at_the_top_with_the_experiments_it_is_about(done: Path):
    study = study_in(folder_in(done))
    html = report_html(study)
    said = f"{FIRST}. In found, table1."
    assert said.replace("<", "&lt;").replace(">", "&gt;") in html
    assert html.index("one: its prompts begin without") < html.index('id="x-found"')
    assert html.count("one: its prompts begin without") == 1
    opened = open_run(folder_in(done))
    assert "one: its prompts begin without" in opened._repr_html_()
    assert opened["found"].notices == (FIRST, LATER)
    assert "something came up" in opened["found"]._repr_html_()
    assert "something came up" not in opened["table1"]._repr_html_()


def test_the_command_line_says_it_first_and_beside_the_results(told: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(told)
    lines = et("run", "study.yaml").stderr.splitlines()
    assert lines[0] == f"Notice: {FIRST}"
    again = et("run", "study.yaml")
    assert again.stderr.splitlines()[:2] == [f"Notice: {FIRST}", f"Notice: {LATER}"]
    assert f"Notice: {FIRST}. In found.\n" in again.stdout
    assert f"Notice: {FIRST}. In found, table1.\n" in et("report", "study.yaml").stdout
    assert et("run", "study.yaml", "--quiet").stderr == ""
    objects = [json.loads(line) for line in et("run", "study.yaml", "--json").stdout.splitlines()]
    assert objects[0] == {"event": "notice"} | vars(FIRST)
    results = {one["experiment"]: one for one in objects if one["event"] == "result"}
    assert results["found"]["notices"] == [vars(FIRST), vars(LATER)]
    assert results["table1"]["notices"] == [vars(FIRST)]
