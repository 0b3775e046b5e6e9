"""The paper's numbers beside ours."""

from __future__ import annotations

import pytest

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import parse
from nnsight_et.planning.plan import plan
from nnsight_et.report.reproduction import paper_tables
from nnsight_et.results.headers import ModelRecord, ResultHeader
from tests.helpers.summaries import header_of, summary_of

FULL = {"model": "goat-tiny", "full": 0.9, "circuit": 0.8, "random_mean": 0.1, "random_std": 0.0, "faithfulness": None}

CIRCUIT = {"schema": 1, "groups": []}
PATCHED = {
    "model": "llama",
    "group": "value_fetcher",
    "desideratum": "object",
    "heads": 2,
    "mean": 0.5,
    "std": 0.0,
    "do_nothing": 0.1,
    "draws": 1,
}


def header(
    method: str, summary: dict, reproduces: list[str], models: tuple[str, ...] = ("llama-tiny",)
) -> ResultHeader:
    """The header of a result whose summary has these keys, and what else it must have."""
    found = header_of(method, summary_of(method, summary).to_dict(), reproduces=reproduces)
    records = [ModelRecord(name=name, fingerprint="f", description="d") for name in models]
    return found.model_copy(update={"models": records})


def test_a_faithfulness_result_stands_beside_table_1_and_a_missing_number_is_left_out() -> None:
    (table,) = paper_tables(header("faithfulness", {"rows": [FULL]}, ["Table 1"]))
    assert [row[:5] for row in table.rows] == [
        ("goat", "full_model", "0.82", "0.90", "+0.08"),
        ("goat", "circuit", "0.73", "0.80", "+0.07"),
        ("goat", "random_circuit", "0.01", "0.10", "+0.09"),
    ]


def test_embedded_models_are_said_to_say_nothing_about_the_paper() -> None:
    (tiny,) = paper_tables(header("faithfulness", {"rows": [FULL]}, ["Table 1"]))
    (large,) = paper_tables(header("faithfulness", {"rows": [FULL | {"model": "goat"}]}, ["Table 1"], ("goat",)))
    assert "says nothing about the paper" in tiny.note
    assert large.note == "Ours: goat."
    assert large.rows == tiny.rows


def test_an_experiment_that_reproduces_nothing_has_no_table() -> None:
    assert paper_tables(header("faithfulness", {"rows": [FULL]}, [])) == ()
    assert paper_tables(header("dcm", {"rows": []}, ["Table 1"])) == ()


def test_layers_of_another_depth_are_not_compared() -> None:
    rows = [{"blind": "last", "to": "random", "accuracy": [0.5] * 7}]
    (table,) = paper_tables(header("knockout", {"rows": rows, "model": "m"}, ["Figure A1"]))
    assert table.rows == ()
    assert "None of our numbers" in table.note
    rows = [{"blind": "last", "to": "random", "accuracy": [0.5] * 33}]
    (table,) = paper_tables(header("knockout", {"rows": rows, "model": "m"}, ["Figure A1"], ("llama",)))
    assert len(table.rows) == 32


@pytest.mark.parametrize(
    ("method", "summary", "name", "found"),
    [
        (
            "completeness",
            {"rows": [{"removed": "value_fetcher", "model": 0.5, "circuit": 0.4, "completeness": 0.1}], "random": {}},
            "Table A1",
            {("value_fetcher", "full_model"), ("value_fetcher", "circuit"), ("value_fetcher", "completeness")},
        ),
        (
            "comparison",
            {"rows": [{"group": "value_fetcher", "shared": 3, "precision": 0.5, "recall": 0.5}]},
            "Table A6",
            {("value_fetcher", "intersection"), ("value_fetcher", "precision"), ("value_fetcher", "recall")},
        ),
        (
            "activation_patching",
            {"rows": [PATCHED], "circuit": CIRCUIT},
            "Figure 3",
            {("llama/value_fetcher", "object")},
        ),
        (
            "activation_patching",
            {"rows": [PATCHED | {"group": "position_transmitter", "desideratum": "no_comma"}], "circuit": CIRCUIT},
            "Table A11",
            {("no_comma", "accuracy")},
        ),
        (
            "cmap",
            {
                "donor": "goat-tiny",
                "recipient": "llama-tiny",
                "models": {"goat-tiny": 0.9, "llama-tiny": 0.6},
                "rows": [
                    {"patched": "output", "group": "all", "heads": 2, "accuracy": 0.8},
                    {"patched": "query", "group": "value_fetcher", "heads": 1, "accuracy": 0.7},
                ],
                "random": None,
                "circuit": CIRCUIT,
            },
            "Figure 4",
            {("goat -> llama", "donor"), ("goat -> llama", "recipient"), ("goat -> llama", "all")},
        ),
    ],
)
def test_every_method_finds_its_numbers(method: str, summary: dict, name: str, found: set) -> None:
    (table,) = paper_tables(header(method, summary, [name]))
    assert {row[:2] for row in table.rows} == found


def test_what_is_reproduced_must_be_in_the_paper_and_does_not_change_what_is_computed() -> None:
    text = "name: x\nexperiments:\n  k: {method: knockout, model: llama-tiny%s}\n"
    with pytest.raises(ManifestError, match=r"x:3: .*no numbers for 'Figure 99'.*accepted: Table 1"):
        parse(text % ", reproduces: [Figure 99]", "x")
    ids = {plan(parse(text % more, "x")).digest for more in ("", ", reproduces: [Figure A1]")}
    assert len(ids) == 1
