"""Results that earlier versions wrote, kept as they wrote them, are read, shown, exported and compared today.

schema_1/first is of a version without self-checks, tests of heads and intervals; schema_1/tested of one without ties
and shared keys. Neither said so: both are of schema 1.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nnsight_et.api.runs import open_run
from nnsight_et.core.errors import ResultError
from nnsight_et.planning.plan import digest
from nnsight_et.report.results import tables
from nnsight_et.results.headers import read_header
from nnsight_et.results.migration import SCHEMA, STEPS
from nnsight_et.results.store import read_result
from tests.helpers.commands import et

OLD = Path(__file__).parent / "schema_1"
FOLDERS = sorted(path.parent for path in OLD.glob("*/*/result.json"))


def named(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def rewritten(folder: Path, **changes: object) -> None:
    """The header with other values and a digest that fits."""
    data = json.loads((folder / "result.json").read_text()) | changes
    del data["digest"]
    (folder / "result.json").write_text(json.dumps(data | {"digest": digest(data)}))


def test_there_is_a_step_from_every_earlier_schema():
    assert list(STEPS) == list(range(1, SCHEMA))


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_what_an_earlier_version_measured_is_read_as_it_was_written(folder: Path):
    written, result = json.loads((folder / "result.json").read_text()), read_result(folder)
    assert written["schema_version"] == 1
    assert result.header.schema_version == SCHEMA
    for key in ("job_id", "identity", "seconds", "versions", "data_digest"):
        assert getattr(result.header, key) == written[key]
    assert result.header.summary.get("circuit") == written["summary"].get("circuit")
    scores = load_file(folder / "scores.safetensors")
    kept = {name: result.scores[name] for name in scores}
    torch.testing.assert_close(kept, scores, rtol=0, atol=0, equal_nan=True)
    assert all(result.scores[name].isnan().all() for name in set(result.scores) - set(scores))
    assert all(table.rows for table in tables(result.header))


def test_what_was_not_recorded_then_is_said_to_be_missing():
    first, tested = (read_result(OLD / name / "found") for name in ("first", "tested"))
    assert first.header.self_check == {"on": False, "seconds": 0.0, "checks": []}
    assert tested.header.self_check["on"]
    (circuit,) = tables(first.header)
    assert first.header.summary["test"] is None
    assert "*" not in "".join(row[-1] for row in circuit.rows)
    assert [row[1] for row in tables(tested.header)[1].rows] == ["12", "4"]
    assert "value_fetcher.p_holm" in first.scores
    assert not tested.scores["value_fetcher.p_holm"].isnan().all()
    random = read_header(OLD / "first" / "table1").summary["rows"][0]
    assert (random["random_p"], random["random_circuits"]) == (None, 2)
    written = json.loads((OLD / "first" / "across" / "result.json").read_text())["summary"]["rows"]
    rows = read_header(OLD / "first" / "across").summary["rows"]
    assert [row["accuracy_interval"] for row in rows] == [row["interval"] for row in written]


@pytest.mark.parametrize("name", ["first", "tested"])
def test_earlier_runs_are_shown_exported_and_compared(name: str, tmp_path: Path):
    run = shutil.copytree(OLD / name, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shown = et("report", run)
    assert shown.exit_code == 0, shown.stderr
    page = (run / "report.html").read_text()
    assert all(f'id="x-{folder.name}"' in page for folder in run.iterdir() if folder.is_dir())
    assert et("export", run, "--examples", "--to", tmp_path / "tables").exit_code == 0
    assert et("diff", run, OLD / "tested").exit_code == 0
    assert open_run(run)["found"].header.summary["stages"][0]["kept"]
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_damaged_or_of_no_known_schema_is_named(tmp_path: Path):
    folder = shutil.copytree(OLD / "first" / "found", tmp_path / "found")
    path = folder / "result.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"examples": 5', b'"examples": 6', 1))
    with pytest.raises(ResultError, match=r"result\.json: damaged"):
        read_result(folder)
    path.write_bytes(whole)
    rewritten(folder, summary={"stages": [3]})
    with pytest.raises(ResultError, match=r"result\.json: not a result of schema 1 \("):
        read_result(folder)
    for schema, said in (
        (SCHEMA + 1, f"schema {SCHEMA + 1}, of a later version of nnsight_et; accepted: 1 to {SCHEMA}"),
        (0, f"schema 0; accepted: 1 to {SCHEMA}"),
        (None, "schema None; accepted"),
        (True, "schema True; accepted"),
        ("1", "schema 1; accepted"),
    ):
        rewritten(folder, schema_version=schema)
        with pytest.raises(ResultError, match=rf"result\.json: {said}"):
            read_result(folder)
