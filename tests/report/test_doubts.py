"""What a table says below it where its numbers are empty or say little: on random models, and on numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest

from nnsight_et.report.html.page import limits
from nnsight_et.report.results import headline, tables
from nnsight_et.results.headers import name_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study
from tests.helpers.methods_study import models_in, results
from tests.helpers.summaries import header_of, summary_of
from tests.report.test_report import FOUND, KEPT, STAGE, header

EXPERIMENTS = """\
  same: {method: cmap, donor: one, recipient: one, circuit: ./circuit.json, examples: 6, random_sets: 0}
  guesses: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 20, ablation_examples: 5}
  pruned: {method: minimality, circuit: ./circuit.json, model: one, examples: 6, ablation_examples: 5, threshold: 1000}
  again: {method: minimality, circuit: pruned, examples: 6, ablation_examples: 5}
  masks:
    {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object], training_examples: 4, batch: 4,
     validation_examples: 6, test_examples: 6, epochs: 5, sparsity: 1.0e+6}
  roles: {method: activation_patching, roles: masks, models: [one], examples: 3, draws: 1}
  across: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, roles: masks, examples: 6, random_sets: 0,
           main_role: {value_fetcher: object}}
  paths:
    method: path_patching
    model: one
    examples: 4
    stages:
      - {group: a, into: logits, at: last, keep: 3, receivers: 3}
      - {group: b, into: a, via: query, at: last, keep: 8}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return results(models_in(tmp_path_factory.mktemp("doubts")), EXPERIMENTS, "probe=off")


def note(result: Result) -> str:
    return tables(result.header)[0].note


def test_a_model_that_is_its_own_donor_is_told(found):
    assert "Donor and recipient are the same model, whose own activations change nothing." in note(found["same"])


def test_a_share_of_guesses_is_told(found):
    assert "one: no better than chance (0.50), so faithfulness compares guesses." in note(found["guesses"])


def test_a_group_that_minimality_empties_says_by_how_much(found):
    (first, *_) = found["pruned"].header.summary["heads"]
    most = max(
        row["contribution"]
        for row in found["pruned"].header.summary["heads"]
        if row["group"] == first["group"] and row["contribution"] != "infinite"
    )
    text = f"No head of {first['group']} is left: the most that one adds is {most:+.3f}, the threshold is 1000.0."
    assert text in note(found["pruned"])


def test_a_candidate_circuit_without_heads_is_told(found):
    assert "The candidate circuit has no heads: there is nothing to prune." in note(found["again"])


def test_masks_that_no_head_pays_for_are_told_in_a_table_of_their_own(found):
    selections, why = tables(found["masks"].header)
    assert [row[2] for row in selections.rows] == [f"0 of {size}" for size in (4, 2, 3, 2)]
    assert why.columns == ("group", "desideratum", "selected", "why")
    assert [row[0] for row in why.rows] == [row[0] for row in selections.rows]
    reasons = [row["why"] for row in found["masks"].header.summary["rows"]]
    assert [row[3] for row in why.rows] == [one["text"] for some in reasons for one in some]


def test_roles_without_heads_are_told_where_they_are_patched(found):
    assert "Nothing is patched where no heads were selected: value_fetcher, object" in note(found["roles"])
    assert "No heads were selected from value_fetcher, so nothing of them is patched." in note(found["across"])


def test_a_group_that_later_stages_empty_is_told(found):
    empty = not found["paths"].header.summary["circuit"]["groups"][0]["heads"]
    assert ("a has no heads left: later stages at last took them all." in note(found["paths"])) is empty
    summary = FOUND | {"circuit": {"schema": 1, "groups": [{"name": "a", "at": "last", "heads": []}]}}
    assert (
        "a has no heads left: later stages at last took them all." in tables(header("path_patching", summary))[0].note
    )


@pytest.mark.parametrize(
    ("metric", "scores", "text"),
    [
        ("probability_ratio", [0.0, 0.0], "Every kept score of a is 0: base and source are alike there"),
        ("probability_ratio", [0.0, 0.25], "No head of a mattered"),
        ("probability_ratio", [-0.1, 0.25], ""),
        ("kl", [0.2, 0.1], ""),
    ],
)
def test_kept_heads_that_do_not_matter_are_told(metric: str, scores: list[float], text: str):
    kept = [one | {"score": score} for one, score in zip(KEPT, scores, strict=False)]
    summary = summary_of("path_patching", FOUND | {"stages": [STAGE | {"kept": kept}], "test": None}).to_dict()
    found = tables(header_of("path_patching", summary, metric=metric))[0].note
    assert text in found
    assert ("mattered:" in found or "Every kept" in found) is bool(text)


def across(donor: float, recipient: float, patched: float) -> dict[str, Any]:
    return {
        "donor": "goat-tiny",
        "recipient": "llama-tiny",
        "models": {"goat-tiny": donor, "llama-tiny": recipient},
        "rows": [{"patched": "output", "group": "a", "heads": 2, "accuracy": patched}],
        "random": None,
        "circuit": FOUND["circuit"],
    }


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.5, 0.5, 0.6), "goat-tiny alone is no better than llama-tiny alone, so its activations cannot help."),
        ((0.9, 0.5, 0.5), "No patch changes the accuracy of llama-tiny"),
        ((0.9, 0.5, 0.6), ""),
    ],
)
def test_an_improvement_that_cannot_be_is_told(numbers: tuple[float, float, float], text: str):
    one = header("cmap", across(*numbers))
    models = [one.models[0].model_copy(update={"fingerprint": name}) for name in ("goat", "llama")]
    found = tables(one.model_copy(update={"models": models}))[0].note
    assert text in found
    assert ("cannot help" in found or "No patch changes" in found) is bool(text)


@pytest.mark.parametrize(
    ("accuracy", "low", "text"),
    [
        ([0.5, 0.75, 0.75], 0.6, ""),
        (
            [0.7, 0.75, 0.75],
            0.6,
            "Blocking from any layer changes accuracy by no more than its interval: last to random.",
        ),
        ([0.0, 0.0, 0.0], 0.0, "The model answers no prompt right by itself: there is nothing to lose."),
    ],
)
def test_blocking_that_changes_nothing_is_told(accuracy: list[float], low: float, text: str):
    row = {"blind": "last", "to": "random", "accuracy": accuracy, "accuracy_interval": [[low, 1.0]] * 3}
    found = tables(header("knockout", {"rows": [row], "model": "m"}))[0].note
    assert text in found
    assert ("Blocking from" in found or "nothing to lose" in found) is bool(text)


def test_a_model_that_is_never_right_has_no_faithfulness():
    rows = [{"model": "m", "full": 0.0, "examples": 5}, {"model": "n", "full": 0.9, "examples": 5}]
    found = tables(header("faithfulness", {"rows": rows}))[0].note
    assert "Faithfulness is undefined for m, which answers no prompt right." in found


@pytest.mark.parametrize(
    ("circuit", "others", "p", "count", "text"),
    [
        (0.0, 0.01, 1.0, 10, "On one the circuit is no better than random heads: 10 of 10 random circuits of its size"),
        (0.2, 0.1, 3 / 11, 10, "On one the circuit is not clearly better than random heads: 2 of 10 random circuits"),
        (0.2, 0.2, 1.0, 1, "no better than random heads: the random circuit of its size answered at least as many"),
        (0.4, 0.1, 1 / 11, 10, ""),
        (0.4, 0.1, 4 / 101, 100, ""),
        (0.4, None, None, 0, ""),
    ],
)
def test_a_circuit_that_is_no_better_than_random_heads_is_told(
    circuit: float, others: float | None, p: float | None, count: int, text: str
):
    row = {"model": "one", "full": 0.5, "circuit": circuit, "random_mean": others, "examples": 20}
    found = header("faithfulness", {"rows": [row | {"random_p": p, "random_circuits": count}]})
    (table,) = tables(found)
    assert text in table.note
    assert ("random heads" in table.note) is bool(text)
    assert headline(found).endswith("; random circuits do as well on one") is bool(text)
    shown = limits(Study("study", (Result(found, {}),), ()), 0)
    told = [limit for limit in shown if "random heads" in limit.text]
    assert [limit.anchor for limit in told] == [f"x-{name_of(found)}"] * bool(text)


def test_random_heads_that_help_as_much_across_models_are_told():
    drawn = {"mean": 0.7, "std": 0.1}
    summary = across(0.9, 0.5, 0.6) | {"random": drawn}
    told = "As many random heads of goat-tiny help as much: 0.70 on average, and the circuit 0.60."
    assert told in tables(header("cmap", summary))[0].note
    summary["random"] = {"mean": 0.55, "std": 0.1}
    assert "random heads of goat-tiny" not in tables(header("cmap", summary))[0].note
