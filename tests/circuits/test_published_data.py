"""The package's copies of the published results: they are what was published, and every table is there."""

from __future__ import annotations

import subprocess
import sys
from statistics import mean

import pytest

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.core.errors import TaskError
from tests.helpers.published_results import AT, DESIDERATA, GROUPS, heads, shared, value

TABLES = (
    *("Table 1", "Table A1", "Table A4", "Table A5", "Table A6", "Table A8", "Table A9", "Table A10", "Table A11"),
    *("Figure 3", "Figure 4", "Figure A1", "Figure A2", "Figure A3", "Figure A4", "Figure A6", "Figure A8"),
    *("Figure A9", "Table A11, stored", "DCM test accuracy"),
)
MODELS = ("llama", "vicuna", "goat", "float")


def test_every_table_is_there_and_every_number_once():
    found = published.numbers()
    assert {number.table for number in found} == set(TABLES)
    assert len({(number.table, number.row, number.column) for number in found}) == len(found)
    assert all(0 <= number.value <= 1.2 or number.table in ("Table A6", "Table A10") for number in found)
    assert {number.std is None for number in found if number.source == "paper"} == {True, False}


def test_numbers_of_the_paper_read_as_printed():
    assert value("Table 1", "goat", "faithfulness") == published.Number(
        "Table 1", "goat", "faithfulness", 0.89, "paper"
    )
    assert value("Table A4", "random", "circuit") == published.Number(
        "Table A4", "random", "circuit", 0.16, "paper", 0.11
    )
    assert value("Table A10", "structure_reader", "float").value == 38
    assert value("Table A11", "incorrect_segment", "accuracy").std == 0.01
    assert value("Table A8", "value_fetcher", "completeness").value == 0.43


def test_an_unknown_circuit_is_named():
    for read in (published.circuit, published.selections, published.scores, published.cmap_circuit):
        with pytest.raises(TaskError, match=r"no published .* of 'gaot'; did you mean 'goat'"):
            read("gaot")


def test_reading_the_data_needs_no_torch():
    code = "import sys; from nnsight_et.circuits.published import numbers; numbers(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_selected_heads_are_in_their_circuits():
    for name in published.CIRCUITS:
        for group, selected in published.selections(name).items():
            members = published.circuit(name).group(group).heads
            assert all(set(chosen) <= set(members) for chosen in selected.values())
            assert {"object", "label", "position"} <= set(selected)


def test_the_packaged_circuits_and_scores_are_the_published_ones():
    for name, groups in shared("circuits.json").items():
        expected = (
            HeadGroup(GROUPS[group], place, heads(groups[group])) for group, place in zip(GROUPS, AT, strict=True)
        )
        assert published.circuit(name) == Circuit(tuple(expected))
    for name, groups in shared("path_patching_scores.json").items():
        assert published.scores(name) == {GROUPS[group]: tuple(map(tuple, rows)) for group, rows in groups.items()}


def test_the_packaged_evaluations_are_the_published_ones():
    notebook = shared("notebook_numbers.json")
    tables = {"llama": "Table 1", "goat": "Table A5", "float": "Table A9"}
    columns = {"model_acc": "full_model", "circuit_acc": "circuit", "faithfulness": "faithfulness"}
    for block in notebook["circuit_eval"]:
        for key, column in columns.items():
            for model, found in block[key].items():
                assert value(tables[block["circuit"]], model.removesuffix("_naive"), column).value == found
    for block, figure in zip(notebook["completeness"], ("Figure A3", "Figure A4", "Figure A6"), strict=True):
        points = enumerate(block["random_sets_circuit_and_model_acc"], 1)
        points = {f"random {number}": point for number, point in points}
        points |= {GROUPS[group]: point for group, point in block["groups_circuit_and_model_acc"].items()}
        for row, point in points.items():
            assert [value(figure, row, column).value for column in ("circuit", "full_model")] == point


def test_the_packaged_cmap_numbers_are_the_published_ones():
    columns = {"llama": "recipient", "finetuned": "donor", "full_circuit": "all"} | GROUPS
    for block in shared("notebook_numbers.json")["cmap"][:2]:
        for key, column in columns.items():
            assert value("Figure 4", block["direction"], column).value == block[key]


def test_the_packaged_knockouts_are_the_published_ones():
    paths = {
        "from_last_to_correct_obj_pos": ("Figure A1", "last -> correct_object"),
        "from_last_to_query_box_pos": ("Figure A1", "last -> query_label"),
        "from_last_to_random_pos": ("Figure A1", "last -> random"),
        "from_query_box_to_prev_query_box": ("Figure A2", "query_label -> previous_query_label"),
        "from_query_box_to_random_pos": ("Figure A2", "query_label -> random"),
    }
    found = {(number.table, number.row, number.column): number.value for number in published.numbers()}
    for key, sweep in shared("attn_knockout.json").items():
        for start, accuracy in sweep.items():  # theirs count layers from 1
            assert found[*paths[key], str(int(start) - 1)] == accuracy


def test_the_packaged_functionality_is_the_published_one():
    found = {(number.table, number.row, number.column): number for number in published.numbers()}
    for name, models in shared("activation_patching.json").items():
        figure = {"llama": "Figure 3", "goat": "Figure A8", "float": "Figure A9"}[name]
        for model, groups in models.items():
            for group, desiderata in groups.items():
                for desideratum, stored in desiderata.items():
                    column = DESIDERATA[desideratum]
                    key = (figure, f"{model}/{GROUPS[group]}", column)
                    if model not in MODELS:
                        key = ("Table A11, stored", column, "accuracy")
                    assert found[key].value == pytest.approx(mean(stored["runs"]) / 100)
                    assert found[key].std == pytest.approx(stored["std"] / 100)
                    assert ("says nothing" in found[key].source) == (column == "label")


def test_the_packaged_mask_accuracies_are_the_published_ones():
    found = {(number.row, number.column): number for number in published.numbers() if number.table == TABLES[-1]}
    for name, groups in shared("dcm.json").items():
        for group, desiderata in groups.items():
            for desideratum, stored in desiderata.items():
                number = found.pop((f"{name}/{GROUPS[group]}", DESIDERATA[desideratum]))
                assert number.value == stored["test_accuracy"]
    assert not found


def test_table_a11_is_within_a_hundredth_of_what_is_stored():
    """Three rows differ by more than rounding: the stored runs are not those that were printed."""
    for number in published.numbers():
        if number.table == "Table A11":
            assert value("Table A11, stored", number.row, "accuracy").value == pytest.approx(number.value, abs=0.01)
