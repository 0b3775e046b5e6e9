"""Long tables hold what the results hold: checked against summaries and tensors read by other ways."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch

from nnsight_et.api.runs import Run
from nnsight_et.core.errors import ResultError
from nnsight_et.display.measurement import COLUMNS, IDENTITY, TidyRow
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.report.export import TABLES
from nnsight_et.report.results import head_rows, metric_rows
from nnsight_et.results.store import Result


def metrics(run: Run, name: str) -> dict[tuple, TidyRow]:
    found = metric_rows(run[name].result)
    return {(one.model, one.group, one.desideratum, one.condition, one.layer, one.metric): one for one in found}


def heads(run: Run, name: str) -> list[TidyRow]:
    return head_rows(run[name].result)


def test_every_method_has_its_rows(every: Run):
    assert {every[name].method for name in every} == set(METHODS)
    for name in every:
        assert metric_rows(every[name].result) or every[name].method == "attention_patterns"


def test_no_two_rows_are_of_the_same_thing(every: Run):
    for table in (metric_rows, head_rows):
        rows = [one.to_row()[: len(IDENTITY)] for name in every for one in table(every[name].result)]
        assert len(set(rows)) == len(rows) > 0


def test_scores_of_heads_are_the_tensors_entries(every: Run):
    found, scores = heads(every, "found"), every["found"].scores
    for group in ("value_fetcher", "position_transmitter"):
        rows = [one for one in found if one.group == group and one.metric == "patching_score"]
        assert [one.head for one in rows] == [f"L{layer}H{index}" for layer in range(3) for index in range(4)]
        for one in rows:
            place = one.layer, one.index
            assert one.value == scores[f"{group}.score"][place].item()
            assert (one.low, one.high) == (
                scores[f"{group}.low"][place].item(),
                scores[f"{group}.high"][place].item(),
            )
            assert one.reached == scores[f"{group}.reach"][place].item()
            if one.reached:
                assert one.p_adjusted == scores[f"{group}.p_holm"][place].item()
            else:
                assert (one.value, one.p, one.p_adjusted) == (0, None, None)
        stage = next(stage for stage in every["found"].summary["stages"] if stage["group"] == group)
        assert {one.head for one in rows if one.kept} == {kept["head"] for kept in stage["kept"]}
    assert any(one.reached is False for one in found)
    via = {one.condition for one in found if one.group == "position_transmitter"}
    assert via == {"into value_fetcher via query"}


def test_metrics_are_the_summaries_numbers(every: Run):
    (first, second), found = every["table1"].summary["rows"], metrics(every, "table1")
    for row in (first, second):
        one = found[row["model"], "", "", "", None, "circuit_accuracy"]
        assert (one.value, [one.low, one.high]) == (row["circuit"], row["circuit_interval"])
        drawn = found[row["model"], "", "", "", None, "random_accuracy"]
        assert (drawn.value, drawn.p) == (row["random_mean"], row["random_p"])

    across = every["across"].summary
    assert metrics(every, "across")["one", "", "", "alone", None, "accuracy"].value == across["models"]["one"]
    blind = every["blind"].summary["rows"][1]
    found = metrics(every, "blind")
    values = [found["one", "", "", "last blind to query_label", layer, "accuracy"].value for layer in range(4)]
    assert values == blind["accuracy"]

    removed = every["complete"].summary["rows"][-1]
    one = metrics(every, "complete")["one", "", "", f"without {removed['removed']}", None, "completeness"]
    assert one.value == removed["completeness"]


def test_masks_and_contributions_are_of_their_heads(every: Run):
    group = every["found"].circuit.groups[0]
    masks = every["selected"].scores[f"{group.name}.object.mask"]
    rows = [one for one in heads(every, "selected") if (one.group, one.desideratum) == (group.name, "object")]
    assert [(one.head, one.value) for one in rows] == list(zip(map(str, group.heads), masks.tolist(), strict=True))
    row = every["selected"].summary["rows"][0]
    assert {one.head for one in heads(every, "selected") if one.kept and one.group == row["group"]} >= set(
        row["selected"]
    )

    summary = every["minimal"].result.header.summary
    text = summary | {"heads": [summary["heads"][0] | {"contribution": "infinite"}, *summary["heads"][1:]]}
    header = every["minimal"].result.header.model_copy(update={"summary": text})
    added = head_rows(Result(header, every["minimal"].scores))[0]
    assert (added.metric, added.value, added.head) == ("contribution", inf, summary["heads"][0]["head"])


def test_rows_of_single_examples_are_the_tensors_in_order(every: Run):
    table = TABLES["examples"]([every["found"].result])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    found = [row for row in rows if row["score"] == "value_fetcher.per_example"]
    tensor = every["found"].scores["value_fetcher.per_example"]
    assert torch.tensor([row["value"] for row in found]).view_as(tensor).equal(tensor)
    assert (found[-1]["layer"], found[-1]["index"], found[-1]["example"], found[-1]["variant"]) == (2, 3, 4, None)
    base = [row for row in rows if row["score"] == "value_fetcher.base"]
    assert [row["example"] for row in base] == [0, 1, 2, 3, 4]

    of_models = TABLES["examples"]([every["table1"].result])
    variants = {row[of_models.columns.index("variant")] for row in of_models.rows if "circuit.predicted" in row[2]}
    assert variants == {0, 1, 2}  # the circuit and two random ones


def test_a_summary_of_another_method_is_one_message(every: Run):
    header = every["found"].header
    job = header.job.model_copy(update={"spec": every["selected"].header.job.spec})
    with pytest.raises(ResultError, match=r"found: its result.json is not one of dcm \(summary.rows: missing"):
        metric_rows(Result(header.model_copy(update={"job": job}), {}))


def test_scores_that_lack_a_tensor_or_have_another_shape_are_one_message(every: Run):
    result = every["found"].result
    name = "value_fetcher.p_holm"
    rest = {key: tensor for key, tensor in result.scores.items() if key != name}
    with pytest.raises(ResultError, match=f"found: its scores.safetensors has no {name}"):
        head_rows(Result(result.header, rest))
    for wrong in (torch.zeros(3), torch.zeros(3, 5), torch.zeros(3, 4, 1)):
        with pytest.raises(ResultError, match=f"found: {name} in its scores.safetensors has the shape"):
            head_rows(Result(result.header, rest | {name: wrong}))


def test_a_row_has_a_field_per_column():
    one = replace(TidyRow("a", "b"), value=1.0)
    assert dict(zip(COLUMNS, one.to_row(), strict=True))["value"] == 1.0
