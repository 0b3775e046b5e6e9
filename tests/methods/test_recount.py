"""Summaries against their tensors: numbers worked out by hand pass, and each one changed does not."""

from __future__ import annotations

import copy
from math import inf, log
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nnsight_et.manifest import Minimality, PathPatching, Stage
from nnsight_et.methods import METHODS
from tests.helpers.summaries import summary_of

ANSWERS = torch.tensor([1, 2, 3, 4])
TWO_RIGHT, ONE_RIGHT = torch.tensor([1, 2, 0, 0]), torch.tensor([1, 0, 0, 0])
PATHS = {
    "a.reach": torch.tensor([[True, True], [True, False]]),
    "a.per_example": torch.tensor([[[-0.5, 1.0], [-0.75, -0.25]], [[0.25, 0.25], [0.0, 0.0]]]),
    "a.score": torch.tensor([[0.25, -0.5], [0.25, 0.0]]),
    "a.log_ratio": torch.tensor([[0.0, (log(0.25) + log(0.75)) / 2], [log(1.25), 0.0]]),
}
CIRCUIT = {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": ["L0H1", "L1H0"]}]}
MASKS = {
    "a.object.mask": torch.tensor([1.0, 0.0]),
    "a.object.masks": torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]),
    "a.object.accuracies": torch.tensor([0.25, 0.5, 0.5]),
    "object.answer": ANSWERS,
    "object.floor.predicted": ONE_RIGHT,
    "a.object.ceiling.predicted": TWO_RIGHT,
}
MASK = {
    "group": "a",
    "desideratum": "object",
    "selected": ["L1H0"],
    "heads": 2,
    "accuracy": 0.5,
    "do_nothing": 0.25,
    "validated": 0.5,
    "floor": 0.25,
    "ceiling": 0.5,
}
SUMMARIES: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "path_patching": (
        PATHS,
        {"circuit": CIRCUIT, "stages": [{"group": "a", "kept": [{"head": "L0H1"}, {"head": "L0H0"}]}]},
    ),
    "faithfulness": (
        {"m.answer": ANSWERS, "m.model.predicted": TWO_RIGHT, "m.circuit.predicted": ONE_RIGHT[None]},
        {"rows": [{"model": "m", "full": 0.5, "circuit": 0.25, "faithfulness": 0.5}]},
    ),
    "minimality": (
        {"a.before_after": torch.tensor([[0.5, 0.4], [0.5, 0.5], [0.5, 0.0]])},
        {
            "candidate": CIRCUIT,
            "heads": [
                {"group": "a", "before": 0.5, "after": 0.4, "contribution": 0.25, "kept": True},
                {"group": "a", "before": 0.5, "after": 0.5, "contribution": 0.0, "kept": False},
                {"group": "a", "before": 0.5, "after": 0.0, "contribution": "infinite", "kept": True},
            ],
        },
    ),
    "completeness": (
        {"answer": ANSWERS, "circuit.predicted": ONE_RIGHT[None], "model.predicted": TWO_RIGHT[None]},
        {"rows": [{"circuit": 0.25, "model": 0.5, "completeness": 0.25}]},
    ),
    "dcm": (MASKS, {"circuit": CIRCUIT, "rows": [MASK]}),
    "cmap": (
        {"answer": ANSWERS, "output.predicted": torch.stack([ONE_RIGHT, TWO_RIGHT])},
        {
            "donor": "m",
            "recipient": "n",
            "models": {"m": 1.0, "n": 0.5},
            "rows": [
                {"patched": "output", "group": "a", "heads": 2, "accuracy": 0.25},
                {"patched": "query", "group": "a", "heads": 2, "accuracy": 0.9},
            ],
            "random": None,
            "circuit": CIRCUIT,
        },
    ),
    "knockout": (
        {"answer": ANSWERS, "last to query_label.predicted": torch.stack([ONE_RIGHT, TWO_RIGHT])},
        {"rows": [{"blind": "last", "to": "query_label", "accuracy": [0.25, 0.5]}], "model": "m"},
    ),
}
CHANGES: list[tuple[str, list, Any]] = [
    ("path_patching", ["stages", 0, "kept", 1, "head"], "L1H0"),
    ("faithfulness", ["rows", 0, "full"], 0.25),
    ("faithfulness", ["rows", 0, "circuit"], 0.5),
    ("faithfulness", ["rows", 0, "faithfulness"], 2.0),
    ("minimality", ["heads", 0, "before"], 0.4),
    ("minimality", ["heads", 0, "after"], 0.5),
    ("minimality", ["heads", 0, "contribution"], -0.2),
    ("minimality", ["heads", 2, "contribution"], 1.0),
    ("minimality", ["heads", 0, "kept"], False),
    ("minimality", ["heads", 1, "kept"], True),
    ("completeness", ["rows", 0, "circuit"], 0.5),
    ("completeness", ["rows", 0, "model"], 0.25),
    ("completeness", ["rows", 0, "completeness"], -0.25),
    ("dcm", ["rows", 0, "selected"], ["L0H1"]),
    ("dcm", ["rows", 0, "validated"], 0.25),
    ("dcm", ["rows", 0, "floor"], 0.5),
    ("dcm", ["rows", 0, "ceiling"], 0.25),
    ("cmap", ["rows", 0, "accuracy"], 0.5),
    ("knockout", ["rows", 0, "accuracy", 1], 0.25),
]


def audit_summary(job, scores, summary):
    """The largest gap that the method's own audit finds."""
    audit = METHODS[job.spec.method].experiment().audit
    assert audit is not None
    return max(audit(job, scores, summary_of(job.spec.method, summary)), default=0.0)


def job(method: str, metric: Any = "probability_ratio") -> Any:
    stages = (Stage(group="a", into="logits", at="last", keep=2),)
    specs = {
        "minimality": Minimality(method="minimality", circuit="c", threshold=0.01),
        "path_patching": PathPatching(method="path_patching", model="m", metric=metric, stages=stages),
    }
    return SimpleNamespace(spec=specs.get(method, SimpleNamespace(method=method)), name="x")


@pytest.mark.parametrize("method", SUMMARIES)
def test_numbers_by_hand_are_what_the_tensors_say(method):
    scores, summary = SUMMARIES[method]
    worst = audit_summary(job(method), scores, summary)
    assert worst is not None
    assert worst < 1e-6


@pytest.mark.parametrize(("method", "path", "value"), CHANGES)
def test_each_number_of_a_summary_is_counted(method, path, value):
    scores, summary = copy.deepcopy(SUMMARIES[method])
    place: Any = summary
    for step in path[:-1]:
        place = place[step]
    assert place[path[-1]] != value
    place[path[-1]] = value
    worst = audit_summary(job(method), scores, summary)
    assert worst is not None
    assert worst > 0.01


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [("score", (0, 0), 0.3), ("score", (1, 1), -0.1), ("per_example", (1, 0), 0.0), ("log_ratio", (1, 0), 0.25)],
)
def test_a_score_is_the_mean_of_its_ratios_and_0_out_of_reach(name, where, value):
    scores, summary = copy.deepcopy(SUMMARIES["path_patching"])
    scores[f"a.{name}"][where] = value
    worst = audit_summary(job("path_patching"), scores, summary)
    assert worst is not None
    assert worst > 0.01


@pytest.mark.parametrize("mask", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
def test_the_chosen_mask_is_one_that_was_tried_with_the_best_accuracy_and_the_fewest_heads(mask):
    scores, summary = copy.deepcopy(SUMMARIES["dcm"])
    scores["a.object.mask"] = torch.tensor(mask)
    summary["rows"][0]["selected"] = [name for name, keep in zip(["L0H1", "L1H0"], mask, strict=True) if not keep]
    assert audit_summary(job("dcm"), scores, summary) == inf


def test_a_selection_without_heads_says_why():
    scores, summary = copy.deepcopy(SUMMARIES["dcm"])
    scores |= {"a.object.mask": torch.ones(2), "a.object.masks": torch.ones(3, 2)}
    summary["rows"][0] |= {"selected": []}
    assert audit_summary(job("dcm"), scores, summary) == inf
    summary["rows"][0] |= {"why": [{"kind": "ceiling", "text": "This group cannot do it."}]}
    assert audit_summary(job("dcm"), scores, summary) == 0


def test_of_another_metric_the_order_is_its_own_and_there_is_no_log_ratio():
    scores = {name: tensor for name, tensor in copy.deepcopy(PATHS).items() if name != "a.log_ratio"}
    lowest, largest = (
        {"circuit": CIRCUIT, "stages": [{"group": "a", "kept": [{"head": one} for one in heads]}]} for heads in ORDERS
    )
    for metric, right, wrong in (("logit_difference", lowest, largest), ("kl", largest, lowest)):
        assert audit_summary(job("path_patching", metric), scores, right) == 0
        assert audit_summary(job("path_patching", metric), scores, wrong) == inf


ORDERS = (["L0H1", "L0H0"], ["L0H0", "L1H0"])


def test_a_token_that_is_right_as_well_counts():
    scores, summary = copy.deepcopy(SUMMARIES["faithfulness"])
    scores["m.also_right"] = torch.tensor([[7, -1], [-1, -1], [8, 9], [6, -1]])
    scores["m.model.predicted"] = torch.tensor([1, 7, 9, 0])
    assert audit_summary(job("faithfulness"), scores, summary) == 0
    scores["m.model.predicted"] = torch.tensor([1, 7, 9, 6])
    assert audit_summary(job("faithfulness"), scores, summary) == pytest.approx(0.25)


def test_methods_whose_summaries_have_no_tensors_are_not_counted():
    assert METHODS["comparison"].experiment().audit is None
