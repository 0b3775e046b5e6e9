"""What differs between two runs: worked out by hand on results that were changed on purpose."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from nnsight_et_cli.diff import diff

from nnsight_et.api.runs import Run, open_run
from nnsight_et.display.measurement import TidyRow
from nnsight_et.report.difference import TOLERANCE, Difference, ValueChange, difference
from nnsight_et.report.difference_tables import difference_tables, version_note
from nnsight_et.results.store import Result, read_result, write_result
from tests.helpers.commands import et


@pytest.fixture
def copy(every: Run, tmp_path: Path) -> Path:
    """Three of its experiments, in a folder of their own."""
    for name in ("found", "table1", "selected"):
        shutil.copytree(every.folder / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


@pytest.fixture
def same(copy: Path) -> Path:
    return Path(shutil.copytree(copy, copy.parent / "same"))


def changed(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change a result's header, as plain data, and its scores."""
    result = read_result(folder)
    plain, scores = result.header.to_dict(), {name: tensor.clone() for name, tensor in result.scores.items()}
    change(plain, scores)
    write_result(folder, Result(type(result.header).model_validate(plain), scores))


def between(a: Path, b: Path, **options: Any) -> Difference:
    return difference(open_run(a).study, open_run(b).study, **options)


def value(number: float | None, low: float | None = None, high: float | None = None) -> TidyRow:
    return TidyRow("a", "b", metric="accuracy", value=number, low=low, high=high)


def test_equal_runs_are_told_in_one_line(copy: Path, same: Path):
    found = between(copy, same)
    assert found.same
    assert difference_tables(found) == ()
    result = et("diff", copy, same)
    assert result.stdout == "No difference: 3 experiments compared, equal to the last bit.\n"
    assert et("diff", copy / "found", same / "found").stdout.startswith("No difference: 1 experiment compared")


def test_the_commands_tolerance_is_the_functions():
    assert inspect.signature(diff).parameters["tolerance"].default == TOLERANCE


def test_seconds_and_checks_are_no_difference(copy: Path, same: Path):
    changed(same / "found", lambda header, _: header.update(seconds=99.0, self_check={"on": False, "checks": []}))
    assert between(copy, same).same


def test_what_results_were_made_of_is_compared_key_by_key(copy: Path, same: Path):
    def other(header: dict[str, Any], _: object) -> None:
        header["job"]["seed"] = 2
        header["versions"]["torch"] = "9.9"
        header["device"] = "cuda"

    def another(header: dict[str, Any], scores: object) -> None:
        other(header, scores)
        header["job"]["spec"]["stages"][1]["keep"] = 7
        header["models"][0]["fingerprint"] = "f00"
        header["data_digest"] = "d00"

    for name, change in (("table1", other), ("selected", other), ("found", another)):
        changed(same / name, change)
    found = {(one.part, one.key): one for one in between(copy, same).changes}
    assert set(found) == {
        ("manifest", "seed"), ("manifest", "stages.1.keep"), ("model", "one"), ("data", "examples"),
        ("version", "torch"), ("device", "device"),
    }  # fmt: skip
    seed = found["manifest", "seed"]
    assert (seed.a, seed.b, set(seed.experiments)) == ("1", "2", {"found", "table1", "selected"})
    stage = found["manifest", "stages.1.keep"]
    assert (stage.a, stage.b, stage.experiments) == ("2", "7", ("found",))
    assert found["model", "one"].b == "f00"
    printed = et("diff", copy, same)
    assert printed.exit_code == 0
    assert "all 3" in printed.stdout


def test_metrics_differ_by_b_minus_a_and_only_beyond_the_tolerance(copy: Path, same: Path):
    def other(header: dict[str, Any], _: object) -> None:
        row = header["summary"]["rows"][1]
        row["full"] += 0.25
        row["full_interval"] = [row["full_interval"][1] + 0.1, row["full_interval"][1] + 0.2]
        header["summary"]["rows"][0]["circuit"] -= 0.001

    changed(same / "table1", other)
    found = between(copy, same)
    assert [(one.one.model, one.one.metric, one.overlap) for one in found.metrics] == [
        ("two", "accuracy", False),
        ("one", "circuit_accuracy", True),
    ]
    assert found.metrics[0].difference == pytest.approx(0.25)
    assert found.metrics[1].difference == pytest.approx(-0.001)
    assert not found.same
    assert [one.one.metric for one in between(copy, same, tolerance=0.01).metrics] == ["accuracy"]
    assert (
        et("diff", copy, same, "--tolerance", 0.5).stdout == "No difference larger than 0.5: 3 experiments compared.\n"
    )
    assert "apart" in et("diff", copy, same).stdout


def test_heads_are_compared_by_score_and_by_membership(copy: Path, same: Path):
    kept = read_result(copy / "found").header.summary["stages"][0]["kept"]
    gone = kept[-1]["head"]
    others = [f"L{layer}H{index}" for layer in range(3) for index in range(4)]
    new = next(head for head in others if head not in {one["head"] for one in kept})

    def other(header: dict[str, Any], scores: dict[str, Any]) -> None:
        header["summary"]["stages"][0]["kept"][-1]["head"] = new
        scores["value_fetcher.score"][0, 1] += 0.5
        scores["value_fetcher.score"][2, 3] -= 0.75

    changed(same / "found", other)
    found = between(copy, same)
    assert [(one.one.head, one.difference) for one in found.heads] == [
        ("L2H3", pytest.approx(-0.75)),
        ("L0H1", pytest.approx(0.5)),
    ]
    members = {one.group: one for one in found.members if one.experiment == "found"}
    assert (members["value_fetcher"].only_a, members["value_fetcher"].only_b) == ((gone,), (new,))
    assert len(members["value_fetcher"].both) == 2
    assert members["position_transmitter"].only_a == members["position_transmitter"].only_b == ()
    shown = et("diff", copy, same, "--top", 1).stdout
    assert "L2H3" in shown
    assert "1 largest of 2" in shown


def test_results_of_another_version_are_told_and_empty_columns_left_out(copy: Path, same: Path, tmp_path: Path):
    def older(plain: dict[str, Any], _: dict[str, Any]) -> None:
        plain["versions"]["nnsight_et"] = "0.1.0"

    for name in ("found", "table1", "selected"):
        changed(same / name, older)
    found = between(same, copy)
    new = read_result(copy / "found").header.versions["nnsight_et"]
    told = f"Other versions: nnsight_et 0.1.0 wrote A and {new} wrote B. What differs may come from that."
    assert version_note(found) == told
    shown = et("diff", same, copy, "--page", tmp_path / "page.html").stdout
    assert told in " ".join(shown.split())
    assert told in (tmp_path / "page.html").read_text()
    assert version_note(between(copy, copy)) == ""

    def worse(plain: dict[str, Any], _: dict[str, Any]) -> None:
        row = plain["summary"]["rows"][0]
        row["random_p"], row["full_interval"], row["full"] = None, [None, None], row["full"] / 2

    changed(same / "table1", worse)
    tables = {table.title: table for table in difference_tables(between(same, copy))}
    for table in tables.values():
        for index, column in enumerate(table.columns):
            assert column in ("A", "B") or {row[index] for row in table.rows} - {"", "–"}, (table.title, column)
    assert "experiments" in tables["how they were made"].columns


def test_experiments_in_one_only_are_named_and_needs_that_are_not_there_compared(copy: Path, same: Path):
    shutil.rmtree(same / "found")
    changed(same / "selected", lambda header, _: header["job"]["needs"].update(found="0" * 20))
    found = between(copy, same)
    assert (found.only_a, found.only_b, set(found.compared)) == (("found",), (), {"table1", "selected"})
    assert [(one.key, one.b) for one in found.changes] == [("needs.found", "0" * 20)]
    assert not found.same
    assert "only in A" in et("diff", copy, same).stdout


def test_two_single_results_are_compared_whatever_their_names_and_models(every: Run, copy: Path):
    def other(header: dict[str, Any], _: object) -> None:
        header["job"]["name"] = "other"
        header["job"]["spec"]["model"] = header["models"][0]["name"] = "two"

    changed(copy / "found", other)
    found = between(every.folder / "found", copy / "found")
    assert found.compared == ("found | other",)
    assert found.metrics == found.heads == ()
    assert ("manifest", "model", "one", "two") in {(one.part, one.key, one.a, one.b) for one in found.changes}


def test_a_difference_as_json_has_everything_and_nothing_else_is_printed(copy: Path, same: Path):
    def other(_: object, scores: dict[str, Any]) -> None:
        scores["value_fetcher.score"][0, 1] = nan
        scores["value_fetcher.median"][0, 1] += 1

    changed(same / "found", other)
    plain = json.loads(et("diff", copy, same, "--json").stdout)
    assert plain["same"] is False
    (lost, median) = plain["heads"]
    assert (lost["head"], lost["metric"], lost["b"]["value"], lost["difference"]) == (
        "L0H1", "patching_score", None, None
    )  # fmt: skip
    assert (median["metric"], median["difference"]) == ("median", pytest.approx(1))


def test_a_damaged_result_is_left_out_and_told(copy: Path, same: Path):
    (same / "found" / "scores.safetensors").write_bytes(b"")
    result = et("diff", copy, same)
    assert result.exit_code == 0
    assert "B: found is left out: " in result.stderr
    assert et("diff", copy / "found", same / "found").exit_code == 2


@pytest.mark.parametrize(
    ("a", "b", "gap", "size", "overlap"),
    [
        (value(0.5, 0.4, 0.6), value(0.7, 0.6, 0.8), 0.2, 0.2, True),  # they touch
        (value(0.5, 0.4, 0.6), value(0.7, 0.61, 0.8), 0.2, 0.2, False),
        (value(0.7, 0.61, 0.8), value(0.5, 0.4, 0.6), -0.2, 0.2, False),
        (value(0.5, 0.4, 0.6), value(0.7), 0.2, 0.2, None),
        (value(0.5), None, None, inf, None),
        (value(None), value(nan), None, 0.0, None),
        (value(inf), value(inf), None, 0.0, None),
        (value(1.0), value(inf), inf, inf, None),
    ],
)
def test_two_values_by_hand(a: TidyRow, b: TidyRow | None, gap: float | None, size: float, overlap: bool):
    change = ValueChange("a", a, b)
    assert change.difference == (None if gap is None else pytest.approx(gap))
    assert change.size == pytest.approx(size)
    assert change.overlap is overlap
