"""Stages with a screen: what they keep beside stages without, what they say of heads that left, and what shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nnsight_et.core.errors import ExperimentError, ManifestError, TaskError
from nnsight_et.display.figures import HeatMap
from nnsight_et.manifest import PathPatching, parse
from nnsight_et.measuring.race import Race
from nnsight_et.planning.plan import plan
from nnsight_et.report.difference import difference
from nnsight_et.report.export import heads, per_example
from nnsight_et.report.results import head_rows, plates, tables
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import read_result
from nnsight_et.results.study import Study
from nnsight_et.runner.run import run

EXAMPLES, FIRST = 32, 6
EXACT, SCREENED = "", f", screen: {{first: {FIRST}}}"
PLAIN = f", screen: {{first: {FIRST}, gradient: false}}"
MANIFEST = """\
name: screening
seed: 3
task: {{kind: boxes}}
experiments:
  found:
    method: path_patching
    model: llama-tiny
    examples: {examples}
    metric: {metric}
    stages:
      - {{group: a, into: logits, at: last, keep: 3, receivers: 2{screen}}}
      - {{group: b, into: a, via: query, at: last, keep: 2, receivers: 2{screen}}}
      - {{group: c, into: b, via: value, at: query_label, keep: 3, receivers: 2{screen}}}
      - {{group: d, into: a, via: key, at: previous_query_label, keep: 1{screen}}}
      - {{group: m, into: a, via: query, senders: mlps, at: last, keep: 1{screen}}}
"""


ONE_STAGE = f"{MANIFEST.partition('receivers')[0]}receivers: 2{{screen}}}}}}\n"


def found_in(root: Path, screen: str, metric: str = "probability_ratio", manifest: str = MANIFEST):
    text = manifest.format(examples=EXAMPLES, metric=metric, screen=screen)
    made = plan(parse(text, "screening.yaml", ()).in_folder(root))
    list(run(made, root / "runs"))
    return read_result(folder_of(root / "runs", made) / "found")


def kept(result) -> dict[str, list[str]]:
    return {stage["group"]: [one["head"] for one in stage["kept"]] for stage in result.header.summary["stages"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("screening")
    return found_in(root, EXACT), found_in(root, SCREENED)


def left(result, group: str) -> torch.Tensor:
    return result.scores[f"{group}.reach"] & (result.scores[f"{group}.prompts"] < EXAMPLES)


def test_a_screen_keeps_what_all_prompts_keep_and_gives_it_the_same_numbers(both):
    exact, screened = both
    assert kept(screened) == kept(exact)
    for stage, other in zip(exact.header.summary["stages"], screened.header.summary["stages"], strict=True):
        assert stage["receivers"] == other["receivers"]
        for one, two in zip(stage["kept"], other["kept"], strict=True):
            for key in ("score", "low", "high", "median", "largest", "p"):
                assert two[key] == pytest.approx(one[key], abs=1e-4)


def test_heads_that_leave_save_work_and_have_an_interval_that_holds_their_score(both):
    exact, screened, held = *both, list[bool]()
    for stage in screened.header.summary["stages"]:
        group, screen = stage["group"], stage["screen"]
        gone, scores = left(screened, group), screened.scores
        assert screen["left"] == int(gone.sum())
        assert screen["whole"] + screen["left"] == int(scores[f"{group}.reach"].sum())
        assert scores[f"{group}.prompts"][gone].min() >= FIRST
        for key in ("score", "median", "p", "p_holm", "selection_frequency"):
            assert scores[f"{group}.{key}"][gone].isnan().all()
        truth = exact.scores[f"{group}.score"][gone]
        low, high = (scores[f"{group}.{end}"][gone] for end in ("low", "high"))
        held += [*(low <= truth).tolist(), *(truth <= high).tolist()]
        assert (low > max(one["score"] for one in stage["kept"])).all()
        measured = ~scores[f"{group}.per_example"].isnan()
        assert torch.equal(
            measured.sum(-1)[scores[f"{group}.reach"]], scores[f"{group}.prompts"][scores[f"{group}.reach"]]
        )
    assert sum(held) >= 0.95 * len(held) > 100
    assert screened.header.summary["stages"][0]["screen"]["measured"] < 0.6


def test_a_head_that_left_counts_as_chance_where_p_values_are_corrected(both):
    exact, screened = both
    assert [one["tested"] for one in screened.header.summary["stages"]] == [
        one["tested"] for one in exact.header.summary["stages"]
    ]
    there = ~screened.scores["a.p"].isnan()
    assert (screened.scores["a.p_holm"][there] >= exact.scores["a.p_holm"][there] - 1e-3).all()


def test_tables_figures_and_export_tell_a_bound_from_a_score(both):
    _, screened = both
    notes = " ".join(table.note for table in tables(screened.header))
    assert (
        f"a: {screened.header.summary['stages'][0]['screen']['whole']} heads measured on all {EXAMPLES} prompts"
        in notes
    )
    assert f"4 times the head's largest on the first {FIRST} prompts" in notes
    place = tuple(left(screened, "a").nonzero()[0].tolist())
    panels = [panel for plate in plates(screened, Study("s", (screened,), ())) for panel in plate.panels]
    rows_of_cells = [row for panel in panels if isinstance(panel, HeatMap) for row in panel.cells]
    cells = [cell for row in rows_of_cells for cell in row if "dropped after" in cell.text]
    assert len(cells) == sum(int(left(screened, group).sum()) for group in "abcdm")
    assert all(cell.value is None for cell in cells)
    name = f"L{place[0]}H{place[1]}"
    rows = {one.metric: one for one in head_rows(screened) if (one.group, one.head) == ("a", name)}
    assert set(rows) == {"patching_score", "prompts_measured"}
    assert rows["patching_score"].value is None
    low, high = rows["patching_score"].low, rows["patching_score"].high
    assert low is not None
    assert high is not None
    assert low < high
    assert rows["prompts_measured"].value == screened.scores["a.prompts"][place].item()
    assert len(heads([screened]).rows) > 0
    values = [row[-1] for row in per_example([screened]).rows if row[2] == "a.per_example" and row[3:5] == place]
    assert sum(value is not None and value == value for value in values) == rows["prompts_measured"].value


def test_a_bound_differs_from_a_score_only_where_it_does_not_hold_it(both):
    one, other = (Study("s", (one,), ()) for one in both)
    found = difference(one, other)
    scores = [change for change in found.heads if change.one.metric == "patching_score"]
    assert not scores
    assert not any(members.only_a or members.only_b for members in found.members)


def test_a_stage_can_be_screened_by_any_metric_with_an_assumption_or_none(tmp_path):
    exact, screened = (found_in(tmp_path, screen, "kl", ONE_STAGE) for screen in (EXACT, SCREENED))
    assert kept(screened) == kept(exact)
    gone = left(screened, "a")
    assert (
        screened.scores["a.high"][gone] < min(one["score"] for one in screened.header.summary["stages"][0]["kept"])
    ).all()
    safe = found_in(tmp_path, ", screen: {tail: any, miss: 0.5, gradient: false}", manifest=ONE_STAGE)
    stage = safe.header.summary["stages"][0]
    assert stage["screen"]["tail"] is None
    assert stage["screen"]["left"] > 0
    assert safe.scores["a.low"][left(safe, "a")].min() >= -1


def test_a_race_that_is_continued_gives_the_same_bytes(tmp_path):
    text = ONE_STAGE.format(examples=EXAMPLES, metric="probability_ratio", screen=PLAIN)
    course = run(plan(parse(text, "screening.yaml", ()).in_folder(tmp_path)), tmp_path / "one")
    assert any(getattr(step, "step", "") == "a round 2" for step in course)
    course.close()  # type: ignore[attr-defined]
    list(run(plan(parse(text, "screening.yaml", ()).in_folder(tmp_path)), tmp_path / "one"))
    found_in(tmp_path, PLAIN, manifest=ONE_STAGE)
    one, other = (
        next((tmp_path / folder).glob("screening/*/found/scores.safetensors")).read_bytes()
        for folder in ("one", "runs")
    )
    assert one == other


def test_the_audit_finds_a_head_that_left_too_early(tmp_path, monkeypatch):
    true = Race.cannot_be_kept
    monkeypatch.setattr(Race, "cannot_be_kept", lambda race, racing, done: [*true(race, racing, done), *racing[:1]])
    with pytest.raises(ExperimentError, match="self-check"):
        found_in(tmp_path, PLAIN, manifest=ONE_STAGE)


@pytest.mark.parametrize(
    ("screen", "says"),
    [
        ("{exact: 2}", "stages.0.screen.exact: found 2, fewer than the 3 to keep; accepted: 3 or more"),
        ("{miss: 0}", "stages.0.screen.miss"),
        ("{first: 1}", "stages.0.screen.first"),
        ("{tail: 0.5}", "stages.0.screen.tail"),
        ("{often: 1}", "stages.0.screen.often"),
    ],
)
def test_what_a_screen_cannot_be_is_told_by_its_key(screen: str, says: str):
    with pytest.raises(ManifestError, match=says):
        parse(MANIFEST.format(examples=8, metric="probability_ratio", screen=f", screen: {screen}"), "x.yaml", ())


def test_an_effect_without_ends_needs_an_assumption():
    with pytest.raises(ManifestError, match="kl has no bound on a single prompt; accepted: a number"):
        parse(MANIFEST.format(examples=8, metric="kl", screen=", screen: {tail: any}"), "x.yaml", ())


def test_a_stage_without_a_screen_is_named_as_before_there_were_any():
    stage = parse(MANIFEST.format(examples=8, metric="kl", screen=""), "x.yaml", ()).experiments["found"]
    assert isinstance(stage, PathPatching)
    assert "screen" not in json.loads(stage.stages[0].model_dump_json())


def test_circuits_are_not_compared_by_scores_that_are_not_there(tmp_path):
    text = ONE_STAGE.format(examples=EXAMPLES, metric="probability_ratio", screen=SCREENED)
    (tmp_path / "other.json").write_text(
        '{"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L0H0", "L0H1", "L0H2", "L0H3"]}]}'
    )
    text += "  overlap: {method: comparison, circuits: [./other.json, found], scores: found}\n"
    with pytest.raises(TaskError, match="has no score because a screen dropped it"):
        list(run(plan(parse(text, "screening.yaml", ()).in_folder(tmp_path)), tmp_path / "runs"))
