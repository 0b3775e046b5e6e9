"""What a function for notebooks finds is what a manifest's run finds on the same model and prompts, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import nnsight_et as et
from nnsight_et.api.findings import Finding
from nnsight_et.core.errors import ExperimentError
from nnsight_et.manifest import load
from nnsight_et.measuring import checks
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import folder_of
from nnsight_et.results.store import Result, read_result
from nnsight_et.runner.run import run
from tests.helpers.own_pairs_study import lines
from tests.helpers.tiny_model import hf_llama, tokenizer


def heads(*names: str) -> tuple[et.Head, ...]:
    return tuple(map(et.Head.parse, names))


CIRCUIT = et.circuit_of(
    et.HeadGroup("a", "last", heads("L2H1", "L1H0")), et.HeadGroup("b", "asked", heads("L0H3", "L1H2"))
)
OTHER = et.circuit_of(et.HeadGroup("a", "last", heads("L2H1", "L2H2")), et.HeadGroup("b", "asked", heads("L0H3")))
FETCHERS = et.circuit_of(et.HeadGroup("a", "last", heads("L2H1", "L1H0", "L2H3")))
TASK = """\
import json
from pathlib import Path


class Given:
    positions = ("object", "label", "asked")

    def examples(self, tokenizer, count, seed, split):
        return [json.loads(line) for line in (Path(__file__).parent / "pairs.jsonl").read_text().splitlines()][:count]
"""
BOXES = """\
name: boxes
task: {kind: boxes, boxes: 2}
models: {one: {path: one}}
experiments:
  dcm:
    method: dcm
    model: one
    circuit: fetchers.json
    desiderata: [object]
    training_examples: 65
    validation_examples: 8
    test_examples: 5
"""
MANIFEST = """\
name: same
task: {kind: 'given:Given'}
models: {one: {path: one}, two: {path: two}}
experiments:
  minimality: {method: minimality, circuit: circuit.json, model: one, examples: COUNT, ablation_examples: COUNT}
  completeness:
    {method: completeness, circuit: circuit.json, model: one, examples: COUNT, ablation_examples: COUNT, draws: 3}
  attention_patterns: {method: attention_patterns, circuit: circuit.json, model: one, examples: COUNT}
  attribution: {method: attribution, model: one, at: [last, asked], examples: COUNT}
  scores:
    method: path_patching
    model: one
    examples: COUNT
    stages:
      - {group: a, into: logits, at: last, keep: 2, receivers: 2}
      - {group: b, into: a, via: value, at: asked, keep: 2}
  faithfulness:
    method: faithfulness
    circuit: circuit.json
    models: [one]
    examples: COUNT
    ablation_examples: COUNT
    random_circuits: 4
  knockout: {method: knockout, model: one, examples: COUNT, edges: [{blind: last, to: object}]}
  cmap:
    {method: cmap, donor: two, recipient: one, circuit: circuit.json, examples: COUNT, random_sets: 2, inputs: false}
  compare: {method: comparison, circuits: [circuit.json, other.json], scores: scores}
"""


@dataclass(frozen=True)
class Notebook:
    """A model, its pairs, and what a manifest's run finds of both."""

    model: et.LoadedModel
    other: et.LoadedModel
    pairs: et.Pairs
    result: Callable[[str], Result]
    """Of the experiment with this name, run by itself."""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    folder = tmp_path_factory.mktemp("same")
    for seed, name in enumerate(("one", "two")):
        hf_llama(seed=seed).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    given = lines()[:7]
    (folder / "pairs.jsonl").write_text("\n".join(given))
    (folder / "given.py").write_text(TASK)
    (folder / "circuit.json").write_text(CIRCUIT.to_json())
    (folder / "other.json").write_text(OTHER.to_json())
    (folder / "same.yaml").write_text(MANIFEST.replace("COUNT", str(len(given))))
    (folder / "boxes.yaml").write_text(BOXES)
    (folder / "fetchers.json").write_text(FETCHERS.to_json())

    def result(name: str) -> Result:
        planned = plan(load(folder / ("boxes.yaml" if name == "dcm" else "same.yaml"), ()))
        for _ in run(planned, folder / name, [name]):
            pass
        return read_result(folder_of(folder / name, planned) / name)

    one, two = (replace(et.load(folder / name, device="cpu"), name=name) for name in ("one", "two"))
    return Notebook(one, two, et.Pairs.of(map(json.loads, given)), result)


OF_A_MANIFEST = ("manifest", "weights", "splits", "examples")
"""Checks of what a notebook is given as it is."""


def without_time(self_check: Mapping[str, Any]) -> dict[str, Any]:
    """What was checked of both."""
    checks = [one for one in self_check["checks"] if one["check"] not in OF_A_MANIFEST]
    return {"on": self_check["on"], "checks": checks}


def check_same(found: Finding, result: Result, rows: str = "rows") -> None:
    """Rows, scores and self-checks are those of the result, and there are some."""
    assert [dict(row) for row in found.rows] == result.header.summary[rows]
    assert found.scores.keys() == result.scores.keys()
    for name, tensor in found.scores.items():
        assert torch.equal(tensor, result.scores[name]), name
    assert without_time(found.self_check) == without_time(result.header.self_check.to_dict())
    assert found.rows


def test_minimality_is_that_of_a_manifest(notebook: Notebook):
    found, result = et.minimality(notebook.model, notebook.pairs, CIRCUIT), notebook.result("minimality")
    check_same(found, result, "heads")
    assert found.circuit.to_dict() == result.header.summary["circuit"]
    assert found.self_check["checks"]
    assert "self-checks passed" in repr(found)


def test_completeness_is_that_of_a_manifest(notebook: Notebook):
    found = et.completeness(notebook.model, notebook.pairs, CIRCUIT, draws=3)
    check_same(found, notebook.result("completeness"))
    assert found.self_check["checks"]


def test_attention_patterns_are_those_of_a_manifest_and_leave_the_model_as_it_is(notebook: Notebook):
    found = et.attention_patterns(notebook.model, notebook.pairs, CIRCUIT)
    check_same(found, notebook.result("attention_patterns"))
    assert found.self_check["checks"]
    assert notebook.model.model.nn.config._attn_implementation == "sdpa"


def test_attribution_is_that_of_a_manifest(notebook: Notebook):
    found = et.attribution(notebook.model, notebook.pairs, ["last", "asked"])
    check_same(found, notebook.result("attribution"))
    assert found.self_check["checks"]


def test_a_comparison_is_that_of_a_manifest(notebook: Notebook):
    scores = et.path_patch(notebook.model, notebook.pairs)
    earlier = et.path_patch(notebook.model, notebook.pairs, at="asked", into=scores.top(2), via="value")
    found, result = et.compare(CIRCUIT, OTHER, {"a": scores, "b": earlier}), notebook.result("compare")
    check_same(found, result)
    assert list(found.impact) == result.header.summary["impact"] != []
    assert found.figures
    assert et.compare(CIRCUIT, OTHER).impact == ()


def test_patching_scores_are_those_of_a_manifest(notebook: Notebook):
    found, result = et.path_patch(notebook.model, notebook.pairs, keep=2), notebook.result("scores")
    for name, tensor in found.scores.items():
        assert torch.equal(tensor.nan_to_num(9), result.scores[f"a.{name}"].nan_to_num(9)), name
    kept = [row["head"] for row in result.header.summary["stages"][0]["kept"]]
    assert list(map(str, found.kept)) == kept
    assert "reference engine" in {check["check"] for check in found.self_check["checks"]}


def check_scores(found: Finding, result: Result, prefix: str) -> None:
    """Scores with this prefix, and the checks, are those of the result."""
    shared = {name: tensor for name, tensor in result.scores.items() if name.startswith(prefix)}
    assert shared
    for name, tensor in shared.items():
        assert torch.equal(found.scores[name.removeprefix(prefix)], tensor), name
    assert without_time(found.self_check) == without_time(result.header.self_check.to_dict())


def test_an_evaluation_is_that_of_a_manifest_with_its_p_value(notebook: Notebook):
    found = et.evaluate(notebook.model, notebook.pairs, CIRCUIT, random=4)
    result = notebook.result("faithfulness")
    check_scores(found, result, "one.")
    (row,) = result.header.summary["rows"]
    assert [one["accuracy"] for one in found.rows] == [row["full"], row["circuit"], row["random_mean"]]
    assert found.rows[1]["p"] == row["random_p"]


def test_knockout_is_that_of_a_manifest(notebook: Notebook):
    found, result = et.knockout(notebook.model, notebook.pairs, "last", "object"), notebook.result("knockout")
    check_scores(found, result, "last to object.")
    assert [row["accuracy"] for row in found.rows] == result.header.summary["rows"][0]["accuracy"]


def test_cross_model_patching_is_that_of_a_manifest(notebook: Notebook):
    found = et.cmap(notebook.other, notebook.model, notebook.pairs, CIRCUIT, random=2)
    result = notebook.result("cmap")
    check_scores(found, result, "output.")
    rows = {row["patched"]: row["accuracy"] for row in found.rows}
    assert [rows["one alone"], rows["two alone"]] == [result.header.summary["models"][name] for name in ("one", "two")]


def test_masks_are_those_of_a_manifest(notebook: Notebook):
    parts = (("mask_training", 65), ("mask_validation", 8), ("mask_test", 5))
    train, validation, test = (et.Pairs.desideratum("object", count, boxes=2, split=split) for split, count in parts)
    found, result = et.dcm(notebook.model, FETCHERS, train, validation, test), notebook.result("dcm")
    for row, expected in zip(found.rows, result.header.summary["rows"], strict=True):
        assert {key: expected[key] for key in row} == row
    assert without_time(found.self_check) == without_time(result.header.self_check.to_dict())


def test_a_function_whose_self_check_is_off_says_so(notebook: Notebook):
    found = et.attribution(replace(notebook.model, self_check="off"), notebook.pairs)
    assert found.self_check["checks"] == []
    assert "Self-check off." in found.table.note


def test_a_failed_self_check_names_the_function(notebook: Notebook, monkeypatch: pytest.MonkeyPatch):
    wrong: Any = lambda *_: (1.0, 1e-4)  # noqa: E731
    monkeypatch.setattr(checks, "_largest_gaps", wrong)
    with pytest.raises(ExperimentError, match=r"^et\.completeness: self-check 'reference engine'"):
        et.completeness(notebook.model, notebook.pairs, CIRCUIT)
