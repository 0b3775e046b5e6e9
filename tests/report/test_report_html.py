"""report.html from real results of every method: what is in it, that it is safe and whole, and how it looks."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from nnsight_et.core.errors import ResultError
from nnsight_et.manifest import load
from nnsight_et.measuring import model_pool
from nnsight_et.planning.plan import plan
from nnsight_et.report.html import report_html
from nnsight_et.report.html.page import beside_html
from nnsight_et.report.results import plates
from nnsight_et.results.headers import CheckRecord, JobModel, SelfCheckRecord, folder_of
from nnsight_et.results.store import Result, Store
from nnsight_et.results.study import Study, study_in, study_of
from nnsight_et.runner.run import run
from nnsight_et.tasks.boxes import POSITIONS
from tests.helpers.browser import chromium
from tests.helpers.commands import EVERY, STUDY, et
from tests.helpers.large_report import STAGES, large_study
from tests.helpers.report_page import Parsed

SCREENSHOTS = Path(__file__).parents[2] / "build" / "report"
HOSTILE = "<script>alert('1')</script>\"'&<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def every(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest with an experiment of every method, and the folder of its results; only read."""
    root = tmp_path_factory.mktemp("every")
    for name in ("one", "two"):
        (root / name).symlink_to(two_models / name)
    (root / "study.yaml").write_text(STUDY + EVERY)
    manifest = load(root / "study.yaml")
    for _ in run(plan(manifest), root / "runs"):
        pass
    return root / "study.yaml", folder_of(root / "runs", plan(manifest))


@pytest.fixture(scope="module")
def study(every: tuple[Path, Path]) -> Study:
    return study_of(plan(load(every[0])), every[1])


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    return report_html(study)


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def changed(result: Result, **header: object) -> Result:
    return replace(result, header=result.header.model_copy(update=header))


def of(study: Study, name: str) -> Result:
    result = study.result(name)
    assert result is not None
    return result


def test_the_page_is_well_formed_and_every_link_in_it_leads_somewhere(parsed: Parsed):
    assert parsed.wrong == []
    ids = parsed.values("id")
    assert len(set(ids)) == len(ids)
    links = parsed.values("href")
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {f"x-{name}" for name in load_names()} <= set(ids)


def load_names() -> set[str]:
    return set(re.findall(r"^  (\w+):", (STUDY + EVERY).split("experiments:")[1], re.MULTILINE))


def test_the_page_needs_nothing_else_and_its_policy_says_so(html: str, parsed: Parsed):
    assert not parsed.values("src")
    assert not parsed.values("style")
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert not re.findall(r"(?:https?:)?//[a-z]|@import|url\((?!#)", html)
    policy = next(attributes["content"] for _, attributes in parsed.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        (text,) = parsed.text(tag)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_same_results_give_the_same_page(every: tuple[Path, Path], html: str):
    assert report_html(study_of(plan(load(every[0])), every[1])) == html


def test_every_head_of_a_stage_is_a_cell_with_its_score_interval_and_p(study: Study, parsed: Parsed):
    result, titles = of(study, "found"), parsed.text("title")
    scores = result.scores
    kept = {one["head"] for one in result.header.summary["stages"][0]["kept"]}
    for layer, head in ((0, 1), (2, 3)):
        score, low, high, p = (
            scores[f"value_fetcher.{key}"][layer, head].item() for key in ("score", "low", "high", "p")
        )
        start = f"L{layer}H{head}: {score:+.3f} [{low:+.3f}, {high:+.3f}]; p {p:.2g}, Holm"
        (text,) = [title for title in titles if title.startswith(start)]
        assert text.endswith("; kept") == (f"L{layer}H{head}" in kept)
    unreached = sum(int((~scores[f"{group}.reach"]).sum()) for group in ("value_fetcher", "position_transmitter"))
    assert parsed.of_class("hatched") == unreached > 0
    assert parsed.of_class("frame") == 3 + 2  # what the two stages keep


def test_table_1_and_the_headline_have_the_numbers_of_the_result(study: Study, parsed: Parsed):
    cells = parsed.text("td")
    for row in of(study, "table1").header.summary["rows"]:
        low, high = row["full_interval"]
        assert f"{row['full']:.2f} [{low:.2f}, {high:.2f}]~" in cells  # of so few prompts fewer than 5 are right
        assert f"faithfulness on {row['model']}" in parsed.text("span")
    circuit = of(study, "minimal").header.summary["circuit"]["groups"]
    assert f"{sum(len(group['heads']) for group in circuit)} heads" in parsed.text("b")


def test_the_task_is_shown_by_a_pair_of_prompts_with_its_positions(study: Study, html: str, parsed: Parsed):
    example = of(study, "found").header.summary["example"]
    assert {at for _, at in example["base"]} == {"", *POSITIONS}
    shown = html.partition('<dl class="example"')[2].partition("</dl>")[0]
    for side in ("base", "source"):
        for text, at in example[side]:
            assert (f"{escape(text)}<sub>{at}</sub></mark>" if at else escape(text)) in shown
    assert "".join(text for text, _ in example["base"]) != "".join(text for text, _ in example["source"])


def test_every_method_has_its_figures(study: Study):
    figures = {result.header.job.name: plates(result, study) for result in study.results}
    assert all(figures[name] for name in load_names())
    lines = figures["across"][0].panels[0].lines  # type: ignore[union-attr]
    own = of(study, "across").header.summary["models"]
    assert {line.name: line.value for line in lines} == {f"{name} alone": value for name, value in own.items()}
    (drawing,) = figures["found"][0].panels
    assert drawing.positions == ("last",)  # type: ignore[union-attr]
    assert [(arrow.source, arrow.target, arrow.via) for arrow in drawing.arrows] == [  # type: ignore[union-attr]
        ("value_fetcher", "logits", None),
        ("position_transmitter", "value_fetcher", "query"),
    ]


def test_text_of_models_and_data_is_text_and_no_markup(study: Study):
    result = of(study, "table1")
    models = [record.model_copy(update={"name": HOSTILE, "description": HOSTILE}) for record in result.header.models]
    rows = [row | {"model": HOSTILE} for row in result.header.summary["rows"]]
    job = result.header.job.model_copy(update={"models": [JobModel(name=HOSTILE, path=HOSTILE)]})
    found = changed(result, models=models, summary=result.header.summary | {"rows": rows}, job=job)
    found = replace(
        found,
        scores=dict(result.scores)
        | {f"{HOSTILE}.{name.partition('.')[2]}": tensor for name, tensor in result.scores.items()},
    )
    text = report_html(Study(HOSTILE, (found,), study.missing))
    hostile = Parsed(text)
    assert hostile.wrong == []
    assert [tag for tag, _ in hostile.elements].count("script") == 1
    assert not [tag for tag, attributes in hostile.elements if tag == "img" or "onerror" in attributes]
    assert HOSTILE in hostile.text("h1")
    assert HOSTILE in hostile.text("td")
    assert any(HOSTILE in title for title in hostile.text("title"))


def test_what_is_missing_is_named_with_the_reason(every: tuple[Path, Path], tmp_path: Path):
    folder = shutil.copytree(every[1], tmp_path / "run")
    shutil.rmtree(folder / "selected")
    (folder / "blind" / "scores.safetensors").write_bytes(b"")
    (folder / "looks").rename(folder / ".writing-looks")
    study = study_of(plan(load(every[0])), folder)
    reasons = {one.experiment: one.why for one in study.missing}
    assert set(reasons) == {"selected", "blind", "looks"}
    assert reasons["selected"] == reasons["looks"] == "no result yet"
    assert "damaged" in reasons["blind"]
    assert str(tmp_path) not in reasons["blind"]
    parsed = Parsed(report_html(study))
    assert any("Missing here: 3 experiments." in text for text in parsed.text("div"))
    assert set(reasons) <= set(parsed.text("td"))

    of_folder = study_in(folder)
    assert {one.experiment for one in of_folder.missing} == {"selected", "blind"}  # .writing-looks is no experiment
    names = [result.header.job.name for result in of_folder.results]
    assert names.index("found") < names.index("minimal") < names.index("overlap")


def test_a_summary_that_lacks_its_numbers_is_missing_and_the_rest_is_shown(study: Study):
    broken = changed(of(study, "table1"), summary={})
    rest = tuple(result for result in study.results if result.header.job.name != "table1")
    parsed = Parsed(report_html(replace(study, results=(*rest, broken))))
    assert any("its result.json is not one of faithfulness" in text for text in parsed.text("td"))
    assert "x-found" in parsed.values("id")
    assert "x-table1" not in parsed.values("id")
    with pytest.raises(ResultError, match=r"not one of faithfulness \(summary.rows: missing"):
        plates(broken, study)


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (CheckRecord(check="source = base", worst=0.5, tolerance=0.1), "Self-check failed in found."),
        (None, "Without a self-check: found."),
    ],
)
def test_a_self_check_that_failed_or_was_not_made_is_said_first(study: Study, check: CheckRecord | None, part: str):
    checks = SelfCheckRecord(on=check is not None, checks=[check] if check else [])
    parsed = Parsed(report_html(Study("s", (changed(of(study, "found"), self_check=checks),), ())))
    assert part in "".join(parsed.text("div"))


def test_a_report_of_the_papers_size_is_under_5_mb(study: Study):
    large = large_study(of(study, "found"), 3, (32, 32))
    rest = tuple(result for result in study.results if result.header.job.name != "found")
    text = report_html(replace(large, results=(*large.results, *rest)))
    parsed = Parsed(text)
    assert sum("m" in attributes.get("class", "").split() for tag, attributes in parsed.elements if tag == "rect") >= (
        3 * 4 * 1024
    )
    assert len(text.encode()) < 5_000_000


def test_a_run_writes_the_report_and_it_is_made_again_without_a_model(written: Path, monkeypatch: pytest.MonkeyPatch):
    ran = et("run", "study.yaml", "--only", "found")
    (report,) = Path("runs").glob("small/*/report.html")
    assert f"Report: {report}" in ran.stdout
    before = report.read_bytes()
    report.unlink()
    monkeypatch.setattr(model_pool, "load_model", lambda *_args, **_options: pytest.fail("a model was loaded"))
    again = et("report", "study.yaml")
    assert again.exit_code == 0
    assert report.read_bytes() == before
    assert "table1" in again.stdout
    assert "no result yet" in again.stdout
    report.unlink()
    with Store(Path("runs")).writing(report.parent):  # as a run does
        assert et("report", report.parent).exit_code == 0
    assert "found" in report.read_text()


def test_a_report_of_nothing_and_formats_there_are_not_are_refused(written: Path):
    nothing = et("report", "study.yaml")
    assert nothing.exit_code == 2
    assert "none of 2 experiments can be shown (found: no result yet)" in nothing.stderr
    assert et("report", written.parent).exit_code == 2
    wrong = et("report", "study.yaml", "--figures", "figures", "--formats", "pdf,gif")
    assert wrong.exit_code == 2
    assert "no format 'gif'" in wrong.stderr
    assert not Path("figures").exists()
    assert not list(Path().glob("runs/**/report.html"))


def test_a_browser_shows_every_figure_without_a_complaint(study: Study, html: str, tmp_path: Path):
    panels = [panel for result in study.results for plate in plates(result, study) for panel in plate.panels]
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    with chromium(tmp_path / "profile") as view:
        for width in (400, 700, 1280):
            for scheme in ("light", "dark"):
                view.events.clear()
                view.open(path, width, scheme)
                boxes = view.value(
                    "[...document.querySelectorAll('figure svg')].map(one => {"
                    "const box = one.getBoundingClientRect(); return [box.width, box.height]})"
                )
                assert len(boxes) == len(panels) + 1  # the first circuit once more, below the headline
                assert all(wide > 100 and high > 50 for wide, high in boxes)
                assert view.value("document.documentElement.scrollWidth") <= width
                assert view.value("getComputedStyle(document.body).backgroundColor") == BACKGROUND[scheme]
                assert view.value(COVERED) == 0
                assert view.value(COLLIDING) == []
                assert width < 1280 or view.value(CUT) == []
                assert len(view.screenshot(SCREENSHOTS / f"{width}-{scheme}.png")) > 50_000
                assert view.complaints == []
                assert view.requests == {path.as_uri()}
        _marks_tell_their_numbers(view)
        _contents_follow_and_numbers_are_saved(view)
        _a_button_over_a_table_would_be_found(view)
        _links_lead_to_their_headings(view, path)
        assert len(view.send("Page.printToPDF", printBackground=True)["data"]) > 50_000


def test_a_browser_draws_large_maps_when_they_are_looked_at(study: Study, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(report_html(large_study(of(study, "found"), 2, (48, 48))), encoding="utf-8")
    heads = 48 * 48
    with chromium(tmp_path / "profile") as view:

        def drawn(name: str) -> list[int]:
            found = f"[...document.querySelectorAll('#{name}-scores figure')]"
            return view.value(f"{found}.map(one => one.querySelectorAll('rect.m').length)")

        view.open(path, 1280, "light")
        assert drawn("large0") == [0] * STAGES
        heights = "[...document.querySelectorAll('#large0-scores svg')].map(one => one.getBoundingClientRect().height)"
        before = view.value(heights)
        view.value("document.getElementById('large0-scores').scrollIntoView({behavior: 'instant'})")
        view.wait("document.querySelectorAll('#large0-scores .late').length == 0")
        assert drawn("large0") == [heads] * STAGES
        assert view.value(heights) == pytest.approx(before, abs=1)
        assert drawn("large1") == [0] * STAGES
        view.value("kept = [], save = (name, rows) => kept.push(rows.length)")
        view.value("document.querySelector('#large1-scores > .csv').click()")
        assert view.value("kept") == [1 + heads * STAGES]
        view.value("document.querySelector('#large1-scores svg').focus()")
        view.press("ArrowRight")
        assert view.value("document.querySelector('#large1-scores output').textContent").startswith("L47H0: ")
        assert view.complaints == []
        view.events.clear()
        view.open(path, 1280, "light")
        view.value("dispatchEvent(new Event('beforeprint'))")
        assert drawn("large1") == [heads] * STAGES


COVERED = """
[...document.querySelectorAll("button.csv")].filter(one => {
  const box = one.getBoundingClientRect(), near = [one.previousElementSibling, one.nextElementSibling];
  return box.width && near.filter(Boolean).map(it => it.getBoundingClientRect()).some(
    it => it.left < box.right && box.left < it.right && it.top < box.bottom - 1 && box.top + 1 < it.bottom);
}).length
"""
"""How many buttons lie over something to read."""
COLLIDING = r"""
[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const turned = one => /rotate\(-45/.test(one.getAttribute("transform"));
  const texts = [...svg.querySelectorAll("text")].filter(one => !turned(one) && one.textContent);
  const near = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return texts.flatMap((a, index) => texts.slice(index + 1).filter(
    b => a.textContent != b.textContent && near(a.getBoundingClientRect(), b.getBoundingClientRect())
  ).map(b => `${svg.getAttribute("aria-label")}: ${a.textContent}, ${b.textContent}`));
})
"""
"""Words of a figure that lie over each other."""
CUT = """
[...document.querySelectorAll(".scroll")].filter(one => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1)
  .map(one => one.querySelector("table").dataset.name)
"""
"""Tables that are wider than their place."""
BACKGROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}


def _marks_tell_their_numbers(view) -> None:
    """By the arrow keys, and by the pointer."""
    first = "document.querySelector('#found-scores svg')"
    titles = view.value(f"[...{first}.querySelectorAll('.m > title')].map(one => one.textContent)")
    told = f"{first}.parentElement.querySelector('output').textContent"
    view.value(f"{first}.focus()")
    for key, expected in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowDown", 5), ("ArrowLeft", 4)):  # 4 heads in a row
        view.press(key)
        assert view.value(told) == titles[expected]
    view.press("Escape")
    assert view.value(told) == ""
    x, y = view.value(
        f"{first}.scrollIntoView({{behavior: 'instant'}}), (box => [box.x + box.width / 2, box.y + box.height / 2])"
        f"({first}.querySelectorAll('.m')[6].getBoundingClientRect())"
    )
    view.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert view.value(told) == titles[6]


def _a_button_over_a_table_would_be_found(view) -> None:
    """What COVERED counts, where a rule of the page's style was wrong."""
    view.value("sheetEnd = document.styleSheets[0].cssRules.length")
    for wrong in ("margin-bottom: -1rem", "position: relative; top: 1rem", "position: absolute"):
        view.value(f"document.styleSheets[0].insertRule('button.csv {{ {wrong} }}', sheetEnd)")
        assert view.value(COVERED) > 0, wrong
        view.value("document.styleSheets[0].deleteRule(sheetEnd)")
        assert view.value(COVERED) == 0


def _links_lead_to_their_headings(view, path: Path) -> None:
    """Also to those below figures that are not drawn yet, for readers who do not mind motion."""
    view.events.clear()
    view.open(path, 1280, "light")
    view.send("Emulation.setEmulatedMedia", features=[])
    for link in range(0, view.value("document.querySelectorAll('nav li li a').length"), 3):
        view.value(f"link = document.querySelectorAll('nav li li a')[{link}], link.click()")
        view.value("new Promise((done) => setTimeout(done, 50))")
        assert 0 <= view.value("document.querySelector(link.hash).getBoundingClientRect().top") < 300, link


def _contents_follow_and_numbers_are_saved(view) -> None:
    """The contents mark what is read; a button saves what a table or a figure shows."""
    view.value("document.getElementById('x-blind').scrollIntoView({behavior: 'instant'}), follow()")
    assert view.value("[...document.querySelectorAll('nav [aria-current]')].map(one => one.hash)") == ["#x-blind"]
    view.value(
        "kept = [], save = (name, rows) => kept.push([name, ...rows])",
    )
    view.value("document.querySelectorAll('#x-table1 ~ .csv, #found-scores > .csv').forEach(one => one.click())")
    saved = {name: rows for name, *rows in view.value("kept")}
    assert saved["table1-faithfulness"][0][:3] == ["model", "full model", "circuit"]
    header, first, *_ = saved["found-scores"]
    assert header == ["figure", "mark", "value", "low", "high", "text"]
    text = view.value("document.querySelector('#found-scores .m title').textContent")
    found = re.match(r"(\w+): (\S+) \[(\S+), (\S+)\]", text)
    assert found is not None
    assert first[1:] == [*found.groups(), text]


def test_a_report_names_the_run_with_a_limit_that_is_there(every: tuple[Path, Path], tmp_path: Path):
    runs = ("--out", tmp_path / "runs")
    manifest = load(every[0]).with_limit(3)
    for _ in run(plan(manifest), tmp_path / "runs", ("blind",)):
        pass
    refused = et("report", every[0], *runs)
    assert refused.exit_code == 2
    assert f"accepted: the run with --limit 3 ({folder_of(tmp_path / 'runs', plan(manifest))})" in refused.stderr
    assert et("report", every[0], *runs, "--limit", 3).exit_code == 0
    assert "--limit 3" in et("report", every[0], *runs, "--limit", 2).stderr


def test_every_figure_says_how_it_is_read_and_headings_link_to_themselves(study: Study, parsed: Parsed):
    figures = sum(len(plates(result, study)) for result in study.results) + 1  # the first circuit, below the headline
    assert parsed.text("summary").count("How to read this") == figures
    links = [attributes["href"][1:] for _, attributes in parsed.elements if attributes.get("class") == "permalink"]
    assert {"faithfulness", "x-found", "found-scores", "first-minimal-circuit"} <= set(links)
    assert parsed.values("id").index("first-minimal-circuit") < parsed.values("id").index("faithfulness")


def test_a_title_is_the_heading_and_changes_with_the_manifest_but_no_result_does(
    every: tuple[Path, Path], tmp_path: Path
):
    titled = every[0].with_name("titled.yaml")
    titled.write_text(every[0].read_text().replace("  found:\n", "  found:\n    title: Who finds the box?\n", 1))
    before, now = plan(load(every[0])), plan(load(titled))
    assert [job.id for job in now.jobs] == [job.id for job in before.jobs]
    assert now.digest == before.digest
    headings = [text.strip() for text in Parsed(report_html(study_of(now, every[1]))).text("h3")]
    assert "Who finds the box?" in headings
    assert "found" not in headings


def test_experiments_of_a_long_study_are_folded_but_the_first_of_each_section(study: Study):
    found = of(study, "found")
    many = [changed(found, job=found.header.job.model_copy(update={"name": f"found{index}"})) for index in range(25)]
    folded = Parsed(report_html(Study("long", tuple(many), ()))).of_class("entry")
    assert folded == 24
    assert Parsed(report_html(Study("short", tuple(many[:20]), ()))).of_class("entry") == 0


def test_two_runs_stand_side_by_side(every: tuple[Path, Path], study: Study, tmp_path: Path):
    less = Study("less", tuple(one for one in study.results if one.header.job.name != "blind"), ())
    page = Parsed(beside_html(study, less, (), ("one", "<two>")))
    assert page.wrong == []
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    first = ids.index("a-found-circuit")
    assert ids[first : first + 4] == ["a-found-circuit", "b-found-circuit", "a-found-scores", "b-found-scores"]
    assert "a-blind-knockout" in ids
    assert "b-blind-knockout" not in ids
    assert {link.removeprefix("#") for link in page.values("href")} <= set(ids)
    assert "A: one. B: <two>." in page.text("p")

    compared = et("diff", every[1], every[1], "--page", tmp_path / "beside.html")
    assert compared.exit_code == 0
    assert f"Side by side: {tmp_path / 'beside.html'}" in compared.stdout.replace("\n", "")
    assert "a-found-scores" in (tmp_path / "beside.html").read_text()
