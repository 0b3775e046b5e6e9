"""Comparison jobs: overlaps and causal impact in numbers worked out by hand, without any model."""

from __future__ import annotations

import json

import pytest
import torch

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import TaskError
from tests.helpers.methods_study import models_in, results, steps

PRETRAINED = {"a": ["last", "L0H0", "L1H1"], "b": ["last", "L0H1"], "d": ["previous_query_label", "L2H2"]}
FINETUNED = {"a": ["last", "L0H0", "L2H3", "L1H2"], "b": ["last", "L1H0"], "c": ["query_label", "L0H0", "L1H1"]}


def written(groups: dict[str, list[str]]) -> str:
    listed = [{"name": name, "at": at, "heads": heads} for name, (at, *heads) in groups.items()]
    return json.dumps({"schema": 1, "groups": listed})


@pytest.fixture
def root(tmp_path):
    (tmp_path / "first.json").write_text(written(PRETRAINED))
    (tmp_path / "second.json").write_text(written(FINETUNED))
    return tmp_path


def compared(first: str, second: str, more: str = "") -> str:
    return f"  x: {{method: comparison, circuits: [{first}, {second}]{more}}}\n"


def test_a_job_has_every_groups_overlap_by_hand(root, no_model):
    result = results(root, compared("./first.json", "./second.json"))["x"]
    summary = result.header.summary
    keys = ("group", "first", "second", "shared", "precision", "recall")
    assert [tuple(row[key] for key in keys) for row in summary["rows"]] == [
        ("a", 2, 3, 1, 0.5, pytest.approx(1 / 3)),
        ("b", 1, 1, 0, 0.0, 0.0),
        ("d", 1, 0, 0, 0.0, None),
        ("c", 0, 2, 0, None, 0.0),  # L0H0 is in the first circuit, in another group
        ("total", 4, 6, 1, 0.25, pytest.approx(1 / 6)),
    ]
    assert "impact" not in summary
    assert Circuit.from_dict(summary["first"]) == Circuit.from_json(written(PRETRAINED))
    assert result.header.models == []


def test_a_circuit_shares_everything_with_itself(root, no_model):
    rows = results(root, compared("published/goat", "published/goat"))["x"].header.summary["rows"]
    assert all(row["precision"] == row["recall"] == 1 for row in rows)
    assert rows[-1]["shared"] == published.circuit("goat").size


def test_the_published_circuits_have_the_published_overlap_and_the_union_by_impact(root, no_model):
    job = compared("published/llama", "published/goat", ", scores: published/goat")
    summary = results(root, job)["x"].header.summary
    pretrained, finetuned = published.circuit("llama"), published.circuit("goat")
    for row in summary["rows"][:-1]:
        one, other = (set(circuit.group(row["group"]).heads) for circuit in (pretrained, finetuned))
        assert (row["first"], row["second"], row["shared"]) == (len(one), len(other), len(one & other))
    heads = [{head for group in one.groups for head in group.heads} for one in (pretrained, finetuned)]
    impact = summary["impact"]
    assert {one["head"] for one in impact} == {str(head) for head in heads[0] | heads[1]}
    assert [one["score"] for one in impact] == sorted((one["score"] for one in impact), reverse=True)
    assert {one["head"] for one in impact if one["in_finetuned"]} == {str(head) for head in heads[1]}
    assert {one["head"] for one in impact if one["in_pretrained"]} == {str(head) for head in heads[0]}


STAGES = "{group: a, into: logits, at: last, keep: 3, receivers: 1}, {group: b, into: a, via: query, at: last, keep: 2}"
FOUND = "  %s: {method: path_patching, model: %s, examples: 4, stages: [%s]}\n"


def test_impact_is_ordered_by_the_scores_of_the_experiment_that_is_named(tmp_path):
    text = "".join(FOUND % (name, name, STAGES) for name in ("one", "two"))
    found = results(models_in(tmp_path), text + compared("one", "two", ", scores: two"))
    summary, largest = found["x"].header.summary, {}
    for name in ("one", "two"):
        for group in Circuit.from_dict(found[name].header.summary["circuit"]).groups:
            for head in group.heads:
                score = abs(found["two"].scores[f"{group.name}.score"][head.layer, head.index].item())
                largest[str(head)] = max(score, largest.get(str(head), 0))
    assert [one["head"] for one in summary["impact"]] == sorted(largest, key=lambda head: -largest[head])
    assert [one["score"] for one in summary["impact"]] == pytest.approx(sorted(largest.values(), reverse=True))
    assert summary["first"] == found["one"].header.summary["circuit"]
    assert summary["second"] == found["two"].header.summary["circuit"]
    assert not torch.equal(found["one"].scores["a.score"], found["two"].scores["a.score"])


def test_groups_at_different_positions_are_refused_with_both_positions(root, no_model):
    (root / "second.json").write_text(written(FINETUNED | {"b": ["query_label", "L0H1"]}))
    with pytest.raises(
        TaskError, match="group b is at last and at query_label; accepted: the same position in both circuits"
    ):
        steps(root, compared("./first.json", "./second.json"))


def test_scores_without_one_of_the_groups_are_refused(root, no_model):
    with pytest.raises(TaskError, match="no scores of group 'a'; accepted: "):
        steps(root, compared("./first.json", "./second.json", ", scores: published/goat"))
