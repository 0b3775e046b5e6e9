from __future__ import annotations

import pytest

from nnsight_et.core.errors import ResultError
from nnsight_et.display.table import Table
from nnsight_et.manifest import parse
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.methods import METHODS as RECORDS
from nnsight_et.models.catalog import KNOWN_MODELS
from nnsight_et.planning.cost.pieces import Estimate
from nnsight_et.planning.plan import plan
from nnsight_et.report.overview import models_table, plan_table
from nnsight_et.report.results import tables
from nnsight_et.results.store import ResultHeader
from tests.helpers.summaries import header_of, summary_of


def header(method: str, summary: dict) -> ResultHeader:
    """The header of a result whose summary has these keys, and what else it must have."""
    return header_of(method, summary_of(method, summary).to_dict())


ROW = {
    "model": "m",
    "full": 0.66,
    "circuit": 0.6,
    "random_mean": 0.125,
    "random_std": 0.01,
    "random_p": 1 / 11,
    "random_circuits": 10,
    "faithfulness": 0.909,
    "examples": 500,
}
KEPT = [
    {"head": "L4H1", "score": -0.5, "low": -0.6, "high": -0.4, "beyond_chance": True},
    {"head": "L4H0", "score": -0.05, "low": -0.1, "high": 0.02, "beyond_chance": False},
    {"head": "L3H0", "score": 0.25, "low": 0.1, "high": 0.3, "beyond_chance": False},
]
STAGE = {
    "group": "a",
    "at": "last",
    "kept": KEPT,
    "receivers": [],
    "tested": 12,
    "beyond_chance": ["L4H1", "L2H2", "L2H3"],
    "beyond_chance_bh": ["L4H1", "L2H2", "L2H3", "L4H0"],
    "stability": 0.875,
}
FOUND = {
    "circuit": {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L4H1", "L4H0"]}]},
    "stages": [STAGE],
    "test": {"statistic": "mean x", "alternative": "below 0", "null": "t corrected for skew", "level": 0.05},
    "examples": 300,
    "held_out_examples": 0,
    "query_heads_per_kv_head": 1,
}


def test_a_faithfulness_result_is_a_table_like_table_1():
    lacking = {"model": "n", "random_mean": None, "random_std": None, "random_p": None, "faithfulness": None}
    lacking |= {"circuit_interval": [0.55, 0.65], "faithfulness_interval": [None, None]}
    (table,) = tables(header("faithfulness", {"rows": [ROW, ROW | lacking]}))
    assert table.title == "mine: faithfulness"
    assert table.columns == ("model", "full model", "circuit", "random circuits", "p", "faithfulness")
    assert table.rows == (
        ("m", "0.66", "0.60", "0.12 ± 0.01", "0.091 (least)", "0.91"),
        ("n", "0.66", "0.60 [0.55, 0.65]", "–", "–", "–"),
    )
    assert table.numeric == set(table.columns[1:])
    assert "500 prompts" in table.note


def test_a_path_patching_result_shows_the_circuit_and_leaves_out_heads_that_left_it():
    table, _ = tables(header("path_patching", FOUND))
    assert table.columns == ("group", "at", "heads", "beyond chance", "stability", "head and score")
    assert table.rows == (("a", "last", "2", "1", "0.88", "L4H1 -0.500*, L4H0 -0.050"),)
    assert "llama-tiny" in table.title
    assert "*: beyond chance" in table.note
    assert "query heads" not in table.note


def test_where_keys_and_values_are_shared_the_circuits_note_says_who_saw_them_patched():
    names = {"b": ("key", "shared"), "c": ("value", "shared"), "d": ("value", "expanded"), "e": ("query", "shared")}
    stages = [STAGE | {"group": name, "via": via, "kv_heads": kind} for name, (via, kind) in names.items()]
    groups = [{"name": name, "heads": []} for name in names]
    summary = FOUND | {"stages": stages, "circuit": {"groups": groups}, "query_heads_per_kv_head": 4}
    note = tables(header("path_patching", summary))[0].note
    assert "b, c: patching a receiver's key or value patches it for all 4 query heads that share it." in note
    assert "d: of the 4 query heads that share a key or value, only receivers see the patched one." in note


def test_heads_beyond_chance_are_named_kept_or_not_with_the_test_that_says_so():
    _, table = tables(header("path_patching", FOUND))
    assert table.columns[1:4] == ("heads tested", "beyond chance", "by Benjamini-Hochberg")
    assert table.rows == (("a", "12", "3", "4", "L2H2 L2H3"),)
    assert "mean x is below 0 by a one-sided test (t corrected for skew)" in table.note
    assert "p is at most 0.05 after Holm's correction" in table.note
    _, none = tables(header("path_patching", FOUND | {"stages": [STAGE | {"beyond_chance": ["L4H1"]}]}))
    assert none.rows[0][-1] == "–"


def test_held_out_scores_stand_beside_those_that_selected_the_heads():
    again = [one | {f"held_out_{key}": one[key] + 0.125 for key in ("score", "low", "high")} for one in KEPT]
    summary = FOUND | {"stages": [STAGE | {"kept": again}], "held_out_examples": 100}
    table = tables(header("path_patching", summary))[-1]
    assert table.columns == ("group", "head", "selected", "held out", "difference")
    assert table.rows[0] == (
        "a", "L4H1", "-0.500 [-0.600, -0.400]", "-0.375 [-0.475, -0.275]", "+0.125",
    )  # fmt: skip
    assert len(table.rows) == 3
    assert "Mean: -0.100 and 0.025." in table.note
    assert "the 300 examples" in table.note
    assert "100 held-out examples" in table.note


def test_random_halves_are_one_line_of_the_completeness_table():
    row = {"removed": "random 1", "heads": 3, "circuit": 0.5, "model": 0.25, "completeness": 0.25}
    drawn = {key: {"mean": 0.5, "std": 0.125} for key in ("model", "circuit", "completeness")}
    rows = [row, row | {"removed": "random 2"}, row | {"removed": "a", "heads": 4}]
    (table,) = tables(header("completeness", {"rows": rows, "random": drawn}))
    assert [line[0] for line in table.rows] == ["random halves", "a"]
    assert table.rows[1][1:] == ("4", "0.25", "0.50", "0.25")
    assert table.rows[0][2] == "0.50 ± 0.12"


def test_accuracies_stand_with_their_intervals():
    row = {"model": "m", "group": "a", "desideratum": "object", "heads": 3, "mean": 0.5, "std": 0.125}
    row |= {"draws": 2, "do_nothing": 0.0, "mean_interval": [0.4, 0.6], "do_nothing_interval": [0.0, 0.0]}
    (table,) = tables(header("activation_patching", {"rows": [row], "circuit": FOUND["circuit"]}))
    assert table.rows[0][-2:] == ("0.50 ± 0.12 [0.40, 0.60]", "0.00 [0.00, 0.00]~")
    assert "95% intervals" in table.note


CANDIDATE = {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": []}]}


def test_minimality_shows_what_is_kept():
    heads = [
        {"group": "a", "head": "L1H1", "contribution": 0.5, "kept": True},
        {"group": "a", "head": "L1H2", "contribution": 0.0, "kept": False},
        {"group": "a", "head": "L0H2", "contribution": "infinite", "kept": True},
    ]
    (table,) = tables(header("minimality", {"heads": heads, "candidate": CANDIDATE}))
    assert table.rows == (("a", "3", "2", "L1H1 +0.500, L0H2 infinite"),)


def test_knockout_has_a_column_per_first_layer():
    row = {"blind": "last", "to": "random", "accuracy": [0.1, 0.2, 0.5]}
    (table,) = tables(header("knockout", {"rows": [row], "model": "m"}))
    assert table.columns == ("blind", "to", "L0+", "L1+", "none")
    assert table.rows == (("last", "random", "0.10", "0.20", "0.50"),)


def test_every_method_has_its_tables():
    assert set(RECORDS) == set(METHODS)


@pytest.mark.parametrize("method", RECORDS)
def test_a_summary_that_lacks_its_numbers_is_a_result_error(method: str):
    for summary in ({}, {"rows": [{}]}, {"rows": 3}):
        with pytest.raises(ResultError, match="mine: "):
            tables(header_of(method, summary))


def test_a_plan_is_shown_in_order_with_what_is_done():
    text = "name: x\nexperiments:\n  t: {method: faithfulness, circuit: c, models: [llama-tiny, goat-tiny]}\n"
    text += "  c: {method: path_patching, model: llama-tiny, stages: [{group: a, into: logits, at: last, keep: 2}]}\n"
    shape = KNOWN_MODELS["llama-tiny"].shape
    expected = Estimate(token_layers=1e6, flops=2.5e12, peak=3 << 29, seconds=90)
    table = plan_table(plan(parse(text, "x")), {"c"}, {"c": expected})
    assert [(row[1], row[-1]) for row in table.rows] == [("c", "done"), ("t", "to run")]
    assert f"at most {shape.n_layers * shape.n_heads} senders" in table.rows[0][5]
    assert table.rows[1][3:6] == ("llama-tiny, goat-tiny", "500", "2 models, 10 random circuits each")
    assert table.columns[6:9] == ("TFLOP", "memory", "minutes")
    assert [row[6:9] for row in table.rows] == [("2.50", "1.50 GiB", "1.50"), ("–", "–", "–")]
    assert "Total: 2.5 TFLOP, about 1.5 minutes" in table.note


def test_every_model_known_by_name_is_listed_without_folders_of_this_machine():
    table = models_table()
    assert [row[0] for row in table.rows] == list(KNOWN_MODELS)
    assert not any(cell.startswith("/") for row in table.rows for cell in row)


def test_a_table_has_rows_as_long_as_its_columns():
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", ("a", "b"), (("1",),))


def test_how_many_top_heads_were_found_is_a_count():
    row = {"at": "last", "pearson": 1.0, "spearman": 0.5, "top": 10, "top_found": 0.3}
    (table,) = tables(header("attribution", {"rows": [row, row | {"top_found": 1.0}], "model": "m"}))
    assert [cells[-1] for cells in table.rows] == ["3 of 10", "10 of 10"]


def test_a_p_that_is_not_the_least_has_no_mark_and_the_note_names_the_least():
    (table,) = tables(header("faithfulness", {"rows": [ROW, ROW | {"random_p": 2 / 11}]}))
    assert [cells[4] for cells in table.rows] == ["0.091 (least)", "0.182"]
    assert "it cannot be below 0.091 with 10 of them" in table.note


def test_a_minimal_circuit_says_what_ties_and_infinite_mean():
    head = {"group": "a", "head": "L4H1", "contribution": "infinite", "kept": True, "tied": ["L4H0"]}
    (table,) = tables(header("minimality", {"heads": [head], "candidate": CANDIDATE}))
    assert "Tie: more heads compensate equally well for these than may be removed with them" in table.note
    assert "Infinite: without the head the circuit answers nothing right." in table.note
    (plain,) = tables(
        header("minimality", {"heads": [head | {"contribution": 0.5, "tied": []}], "candidate": CANDIDATE})
    )
    assert "Tie" not in plain.note
    assert "Infinite" not in plain.note
