"""Text that comes from manifests, circuits and results: literal in a browser, and no way out of the run's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnsight_et.core.errors import ResultError
from nnsight_et.manifest import load
from nnsight_et.planning.plan import digest, plan
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import HEADER, Result, ResultHeader, read_result, write_result
from nnsight_et.results.study import Study, study_in
from nnsight_et.runner.run import run
from tests.helpers.browser import Page, chromium
from tests.helpers.commands import EVERY, STUDY, et
from tests.helpers.hostile import bytes_in, said
from tests.helpers.report_page import Parsed
from tests.helpers.small_study import STUDY as SMALL

MARKUP = "\"'><img src=x onerror=window.harmed=1><svg onload=window.harmed=1>"
"""Markup that can be the name of a file."""
PAYLOAD = (
    f"</title></style></script><script>window.harmed=1</script>{MARKUP}</svg><a href='javascript:window.harmed=1'>"
    "&lt;{{7*7}}--><style>*{display:none}</style>\u202e\u2028\x7f"
)
PRINTABLE = "".join(one for one in PAYLOAD if one.isprintable())
"""What of it can be the name of a group."""
GROUPS = ("value fetcher", "position")
ON_A_FILE = """\
  minimal_file: {method: minimality, model: one, circuit: CIRCUIT, examples: 4, ablation_examples: 4}
  complete_file: {method: completeness, model: one, circuit: CIRCUIT, examples: 4, ablation_examples: 4, draws: 2}
  selected_file:
    {method: dcm, model: one, circuit: CIRCUIT, training_examples: 4, validation_examples: 2, test_examples: 3,
     learning_rate: 1}
  across_file:
    {method: cmap, donor: one, recipient: two, circuit: CIRCUIT, roles: selected_file, examples: 4, random_sets: 2}
  looks_file: {method: attention_patterns, model: one, circuit: CIRCUIT, examples: 4}
  overlap_file: {method: comparison, circuits: [CIRCUIT, minimal_file]}
"""


@pytest.fixture(scope="module")
def harmful(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model's folder, circuit's file and groups have markup for names; only read."""
    root = tmp_path_factory.mktemp("harmful")
    (root / MARKUP).symlink_to(two_models / "one")
    (root / "two").symlink_to(two_models / "two")
    groups = [
        {"name": f"{name} {PRINTABLE}", "at": "last", "heads": heads}
        for name, heads in zip(GROUPS, (["L2H1", "L1H0"], ["L1H2", "L0H0"]), strict=True)
    ]
    (root / f"{MARKUP}.json").write_text(json.dumps({"schema": 1, "groups": groups}))
    text = STUDY.replace("path: one", f"path: {json.dumps(f'./{MARKUP}')}")
    text += EVERY + ON_A_FILE.replace("CIRCUIT", json.dumps(f"./{MARKUP}.json"))
    (root / "study.yaml").write_text(text)
    manifest = load(root / "study.yaml")
    for _ in run(plan(manifest), root / "runs"):
        pass
    return folder_of(root / "runs", plan(manifest))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def check_shown(view: Page, page: Path, least: int, text: str = PAYLOAD) -> None:
    """A browser shows the page with the text so often, runs nothing of it, and asks for nothing."""
    view.events.clear()
    view.open(page, 1280, "light")
    assert view.value("window.harmed") is None
    assert view.complaints == []
    assert view.requests == {page.resolve().as_uri()}
    count = "(text, part) => text.split(part).length - 1"
    assert view.value(f"({count})(document.body.textContent, {json.dumps(text)})") >= least
    tags = "['img', 'script', 'a[href^=javascript]', 'style', 'iframe', 'object', 'base', 'link']"
    found = view.value(f"{tags}.map(tag => document.querySelectorAll(tag).length)")
    assert found == [0, 1, 0, 1, 0, 0, 0, 0]
    assert view.value("getComputedStyle(document.querySelector('h1')).display") == "block"
    assert "49" not in view.value("document.querySelector('h1').textContent")


def test_names_from_a_manifest_and_a_circuit_are_text_in_the_browser(harmful: Path, view: Page, tmp_path: Path):
    folder = shutil.copytree(harmful, tmp_path / MARKUP / "run")  # the folder above a run is its title
    shown = et("report", folder)
    assert shown.exit_code == 0, shown.stderr
    page = Parsed((folder / "report.html").read_text())
    assert page.wrong == []
    assert page.text("h1") == [MARKUP]
    assert not (set(page.values("id")) & {"", PAYLOAD})
    check_shown(view, folder / "report.html", least=30, text=PRINTABLE)


def leaves(data: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every text of plain data is."""
    if isinstance(data, str):
        yield here
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield from leaves(value, (*here, key))


def tampered(result: Result, study: Study) -> tuple[Result, int]:
    """The result with the payload in every text of its header that it may be in, and in how many kinds of text."""
    data, kinds = result.header.to_dict(), set()
    places: dict[tuple[str | int, ...], list[tuple[str | int, ...]]] = {}
    for place in leaves(data):
        places.setdefault(tuple(part for part in place if isinstance(part, str)), []).append(place)
    for kind, same in places.items():
        tried: Any = deepcopy(data)
        for *above, last in same:
            inside: Any = tried
            for part in above:
                inside = inside[part]
            inside[last] = f"{inside[last]}{PAYLOAD}"
        try:
            found = replace(result, header=ResultHeader.model_validate(tried))
            assert all(table.rows is not None for table in tables(found.header))
            assert plates(found, study) is not None
        except (ResultError, ValueError):
            continue
        data, _ = tried, kinds.add(kind)
    return replace(result, header=ResultHeader.model_validate(data)), len(kinds)


def test_text_in_a_tampered_result_is_text_in_the_browser(harmful: Path, view: Page, tmp_path: Path):
    study, kinds = study_in(harmful), 0
    assert len(study.results) == 18
    for result in study.results:
        changed, count = tampered(result, study)
        write_result(tmp_path / "run" / result.header.job.name, changed)
        kinds += count
    assert kinds > 200
    assert et("report", tmp_path / "run").exit_code == 0
    assert Parsed((tmp_path / "run" / "report.html").read_text()).wrong == []
    check_shown(view, tmp_path / "run" / "report.html", least=500)


@pytest.mark.parametrize("odd", ["\0", "\ud800"], ids=ascii)
def test_characters_that_a_page_cannot_have_are_no_harm(odd: str, harmful: Path, view: Page, tmp_path: Path):
    """NUL, which JSON has and HTML does not, and half of a surrogate pair, which UTF-8 cannot write."""
    shutil.copytree(harmful / "table1", tmp_path / "run" / "table1")
    path = tmp_path / "run" / "table1" / HEADER
    data = json.loads(path.read_text())
    del data["digest"]
    data["models"][0]["description"] = f"{odd}{PAYLOAD}"
    path.write_text(json.dumps(data | {"digest": digest(data)}))
    answer = said("report", tmp_path / "run")
    if odd == "\0":
        assert answer.code == 0
        check_shown(view, tmp_path / "run" / "report.html", least=1)
    else:
        assert answer.code in (1, 2)
        assert "surrogates not allowed" in answer.err
        assert not (tmp_path / "run" / "report.html").exists()


NAMES = (
    "..", ".", "../up", "/etc", "a/b", "a\\b", "a\0b", "", " ", "~", "-rf", ".hidden", "x" * 65, "a b", "a\nb", "é",
    "\u202etxt", "a.json", "C:", "<b>", "$HOME",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_could_lead_out_of_the_folder_is_refused(name: str, tmp_path: Path):
    """Of the run, an experiment, a model and a group: each by itself."""
    path, written = tmp_path / "study.yaml", json.dumps(name)
    for old, new in (
        ("name: study", f"name: {written}"),
        ("  found:", f"  {written}:"),
        ("models: {one:", f"models: {{{written}:"),
        ("{group: d,", f"{{group: {written},"),
    ):
        assert old in SMALL
        path.write_text(SMALL.replace(old, new, 1))
        answer = said("run", path, "--out", tmp_path / "runs")
        assert answer.code == 2, new
        assert "study.yaml:" in answer.err
    assert [one.name for one in tmp_path.iterdir()] == ["study.yaml"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Somebody else's files, beside the folder of runs."""
    (tmp_path / "outside" / "results").mkdir(parents=True)
    for name in ("report.html", "holder", "lock", "results/result.json", "results/scores.safetensors"):
        (tmp_path / "outside" / name).write_text("somebody else's")
    return tmp_path / "outside"


def test_links_planted_in_a_runs_folder_are_replaced_and_not_followed(written: Path, outside: Path):
    folder, before = folder_of(written.parent / "runs", plan(load(written))), bytes_in(outside)
    folder.mkdir(parents=True)
    for link, target in {"report.html": "report.html", ".holder": "holder", "found": "results"}.items():
        (folder / link).symlink_to(outside / target)
    ran = et("run", written, "--only", "found")
    assert ran.exit_code == 0, ran.stderr
    assert bytes_in(outside) == before
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert read_result(folder / "found").header.job.name == "found"


def test_a_lock_that_is_a_link_is_refused_and_not_followed(written: Path, outside: Path):
    folder, before = folder_of(written.parent / "runs", plan(load(written))), bytes_in(outside)
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(outside / "lock")
    ran = et("run", written, "--only", "found")
    assert ran.exit_code == 1
    assert "cannot be written" in ran.stderr
    assert bytes_in(outside) == before
    assert not list(folder.glob("*/result.json"))
