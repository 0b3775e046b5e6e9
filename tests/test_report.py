from __future__ import annotations

import pytest

from nnsight_et.errors import ResultError
from nnsight_et.manifest import parse
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.models.named import NAMED
from nnsight_et.plan import plan
from nnsight_et.report.overview import models_table, plan_table
from nnsight_et.report.results import TABLES, tables
from nnsight_et.report.table import Table
from nnsight_et.store import ResultHeader


def header(method: str, summary: dict) -> ResultHeader:
    return ResultHeader(
        job={"name": "mine", "spec": {"method": method}},
        job_id="0",
        identity="1",
        models=[{"name": "llama-tiny", "fingerprint": "f", "description": "d"}],  # type: ignore[list-item]
        data_digest="2",
        versions={},
        device="cpu",
        seconds=1,
        summary=summary,
    )


ROW = {
    "model": "m",
    "full": 0.66,
    "circuit": 0.6,
    "random_mean": 0.125,
    "random_std": 0.01,
    "faithfulness": 0.909,
    "examples": 500,
}
KEPT = [
    {"head": "L4H1", "score": -0.5, "low": -0.6, "high": -0.4},
    {"head": "L3H0", "score": 0.25, "low": 0.1, "high": 0.3},
]


def test_a_faithfulness_result_is_a_table_like_table_1():
    lacking = {"model": "n", "random_mean": None, "random_std": None, "faithfulness": None}
    (table,) = tables(header("faithfulness", {"rows": [ROW, ROW | lacking]}))
    assert table.title == "mine: faithfulness"
    assert table.columns == ("model", "full model", "circuit", "random circuits", "faithfulness")
    assert table.rows == (("m", "0.66", "0.60", "0.12 ± 0.01", "0.91"), ("n", "0.66", "0.60", "–", "–"))
    assert table.numeric == set(table.columns[1:])
    assert "500 prompts" in table.note


def test_a_path_patching_result_shows_the_circuit_and_leaves_out_heads_that_left_it():
    circuit = {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L4H1"]}]}
    stages = [{"group": "a", "at": "last", "kept": KEPT, "receivers": []}]
    (table,) = tables(header("path_patching", {"circuit": circuit, "stages": stages}))
    assert table.rows == (("a", "last", "1", "L4H1 -0.500"),)
    assert "llama-tiny" in table.title


def test_random_halves_are_one_line_of_the_completeness_table():
    row = {"removed": "random 1", "heads": 3, "circuit": 0.5, "model": 0.25, "completeness": 0.25}
    drawn = {key: {"mean": 0.5, "std": 0.125} for key in ("model", "circuit", "completeness")}
    rows = [row, row | {"removed": "random 2"}, row | {"removed": "a", "heads": 4}]
    (table,) = tables(header("completeness", {"rows": rows, "random": drawn}))
    assert [line[0] for line in table.rows] == ["random halves", "a"]
    assert table.rows[1][1:] == ("4", "0.25", "0.50", "0.25")
    assert table.rows[0][2] == "0.50 ± 0.12"


def test_minimality_shows_what_is_kept():
    heads = [
        {"group": "a", "head": "L1H1", "contribution": 0.5, "kept": True},
        {"group": "a", "head": "L1H2", "contribution": 0.0, "kept": False},
        {"group": "a", "head": "L0H2", "contribution": "infinite", "kept": True},
    ]
    (table,) = tables(header("minimality", {"heads": heads}))
    assert table.rows == (("a", "3", "2", "L1H1 +0.500, L0H2 infinite"),)


def test_knockout_has_a_column_per_first_layer():
    (table,) = tables(header("knockout", {"rows": [{"blind": "last", "to": "random", "accuracy": [0.1, 0.2, 0.5]}]}))
    assert table.columns == ("blind", "to", "L0+", "L1+", "none")
    assert table.rows == (("last", "random", "0.10", "0.20", "0.50"),)


def test_every_method_has_its_tables():
    assert set(TABLES) == set(METHODS)


@pytest.mark.parametrize("method", [*TABLES, "another"])
def test_a_summary_that_lacks_its_numbers_is_a_result_error(method: str):
    for summary in ({}, {"rows": [{}]}, {"rows": 3}):
        with pytest.raises(ResultError, match="mine: "):
            tables(header(method, summary))


def test_a_plan_is_shown_in_order_with_what_is_done():
    text = "name: x\nexperiments:\n  t: {method: faithfulness, circuit: c, models: [llama-tiny, goat-tiny]}\n"
    text += "  c: {method: path_patching, model: llama-tiny, stages: [{group: a, into: logits, at: last, keep: 2}]}\n"
    shape = NAMED["llama-tiny"].shape
    table = plan_table(plan(parse(text, "x")), done={"c"})
    assert [(row[1], row[-1]) for row in table.rows] == [("c", "done"), ("t", "to run")]
    assert f"at most {shape.n_layers * shape.n_heads} senders" in table.rows[0][5]
    assert table.rows[1][3:6] == ("llama-tiny, goat-tiny", "500", "2 models, 10 random circuits each")


def test_every_model_known_by_name_is_listed_without_folders_of_this_machine():
    table = models_table()
    assert [row[0] for row in table.rows] == list(NAMED)
    assert not any(cell.startswith("/") for row in table.rows for cell in row)


def test_a_table_has_rows_as_long_as_its_columns():
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", ("a", "b"), (("1",),))
