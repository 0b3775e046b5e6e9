"""Minimality: the job against every subset's accuracy by plain hooks and the greedy rule written once more."""

from __future__ import annotations

import json
from itertools import combinations
from math import ceil, inf, nan

import pytest

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.results.store import Result
from tests.helpers import plain_hooks
from tests.helpers.methods_study import MODELS, ablation_prompts, circuit, circuit_accuracy, models_in, pairs, results

EXAMPLES, PROMPTS = 23, 6
JOB = """\
  x: {method: minimality, model: one, circuit: ./circuit.json, examples: 23, ablation_examples: 6,
      threshold: %s, fraction: %s%s}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return models_in(tmp_path_factory.mktemp("minimality"))


def found(root, threshold: float = 0.01, fraction: float = 0.3, more: str = "") -> Result:
    return results(root, JOB % (threshold, fraction, more))["x"]


@pytest.fixture(scope="module")
def accuracy():
    """F of the circuit without some heads of one of its groups, by plain hooks; asked twice, measured once."""
    module, pair, known = MODELS["one"](), pairs(EXAMPLES, "pruning"), {}
    means = plain_hooks.mean_head_outputs(module, ablation_prompts(PROMPTS))

    def measured(group: HeadGroup, without: set[Head]) -> float:
        key = (group.name, frozenset(without))
        if key not in known:
            rest = tuple(
                HeadGroup(one.name, one.at, tuple(head for head in one.heads if one != group or head not in without))
                for one in circuit().groups
            )
            known[key] = circuit_accuracy(module, pair, means, Circuit(rest))
        return known[key]

    return measured


def greedy(accuracy, group: HeadGroup, head: Head, fraction: float) -> list[Head]:
    """K of App. B: the others in the order of what is lost when `head` goes as well, as long as anything is lost."""
    lost = {w: accuracy(group, {w}) - accuracy(group, {head, w}) for w in group.heads if w != head}
    ordered = sorted(lost, key=lambda w: round(-lost[w], 9))
    chosen = []
    for w in ordered[: ceil(fraction * len(group.heads))]:
        if lost[w] <= 1e-9:
            break
        chosen.append(w)
    return chosen


def ties(accuracy, group: HeadGroup, head: Head, chosen: list[Head]) -> list[Head]:
    """The heads outside K that lose as much as the last one in it."""
    lost = {w: accuracy(group, {w}) - accuracy(group, {head, w}) for w in group.heads if w != head}
    return [w for w in lost if chosen and w not in chosen and abs(lost[w] - lost[chosen[-1]]) < 1e-9]


@pytest.mark.parametrize(("threshold", "fraction"), [(0.01, 0.3), (0.0, 1.0), (-0.2, 0.5), (0.05, 0.0)])
def test_every_head_is_judged_as_by_brute_force(root, accuracy, threshold, fraction):
    """Inside the full circuit each time: a head that was judged before is there again, kept or not."""
    summary = found(root, threshold, fraction).header.summary
    rows = {(row["group"], row["head"]): row for row in summary["heads"]}
    kept, removed = [], 0
    for group in circuit().groups:
        stay = []
        for head in group.heads:
            row, others = rows[group.name, str(head)], greedy(accuracy, group, head, fraction)
            before, after = accuracy(group, set(others)), accuracy(group, {head, *others})
            gain = before / after - 1 if after else inf if before else nan
            assert row["without"] == [str(other) for other in others]
            assert row["tied"] == [str(other) for other in ties(accuracy, group, head, others)]
            assert (row["before"], row["after"]) == (pytest.approx(before), pytest.approx(after))
            assert row["kept"] == (gain >= threshold - 1e-9)
            removed += len(others)
            stay += [head] if row["kept"] else []
        kept.append(HeadGroup(group.name, group.at, tuple(stay)))
    assert Circuit.from_dict(summary["circuit"]) == Circuit(tuple(kept))
    assert Circuit.from_dict(summary["candidate"]) == circuit()
    assert 0 < sum(len(group.heads) for group in kept) < circuit().size
    assert bool(removed) == bool(fraction)


def test_the_stored_pair_accuracies_are_those_of_brute_force(root, accuracy):
    scores = found(root).scores
    for group in circuit().groups:
        table = scores[f"{group.name}.pair_accuracy"]
        for (i, v), (j, w) in combinations(enumerate(group.heads), 2):
            assert table[i, j].item() == table[j, i].item() == pytest.approx(accuracy(group, {v, w}))
        for i, v in enumerate(group.heads):
            assert table[i, i].item() == pytest.approx(accuracy(group, {v}))
    assert len(set(scores["value_fetcher.pair_accuracy"].flatten().tolist())) > 2


def test_two_heads_with_one_index_in_different_layers_are_removed_together(root, accuracy):
    """L1H3 and L2H3 of the value fetchers: without both is not the same as without either."""
    group = circuit().group("value_fetcher")
    low, high = Head(1, 3), Head(2, 3)
    i, j = group.heads.index(low), group.heads.index(high)
    table = found(root).scores["value_fetcher.pair_accuracy"]
    assert table[i, j].item() == pytest.approx(accuracy(group, {low, high}))
    assert accuracy(group, {low, high}) not in (accuracy(group, {low}), accuracy(group, {high}))


def test_a_head_of_two_groups_is_removed_from_one_alone(root, accuracy):
    """L1H3 is a value fetcher and a structure reader; each group judges it at its own position."""
    rows = [row for row in found(root).header.summary["heads"] if row["head"] == "L1H3"]
    assert [row["group"] for row in rows] == ["value_fetcher", "structure_reader"]
    for row in rows:
        group = circuit().group(row["group"])
        others = {Head.parse(name) for name in row["without"]}
        assert row["after"] == pytest.approx(accuracy(group, {Head(1, 3), *others}))
    assert rows[0]["after"] != rows[1]["after"]


def test_the_verdict_on_a_head_does_not_depend_on_the_order_of_the_groups(root):
    data = circuit().to_dict()
    data["groups"].reverse()
    (root / "reversed.json").write_text(json.dumps(data))
    rows = found(root).header.summary["heads"]
    reverse = results(root, (JOB % (0.01, 0.3, "")).replace("circuit.json", "reversed.json"))["x"].header.summary[
        "heads"
    ]
    assert sorted(rows, key=str) == sorted(reverse, key=str)
    assert rows != reverse


@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_other_ablations_give_other_accuracies(root, ablation):
    usual, other = (found(root, more=more).scores for more in ("", f", ablation: {ablation}"))
    assert usual.keys() == other.keys()
    assert any(not usual[name].equal(other[name]) for name in usual)


def test_where_nothing_is_ever_answered_no_head_stays(root):
    """By hand: 0 / 0 is no reason to keep a head, whatever the threshold."""
    summary = results(root, JOB % (-1, 1, ""), "task.objects=[apple, pipe, guitar, disk]")["x"].header.summary
    assert {(row["before"], row["after"], row["kept"]) for row in summary["heads"]} == {(0.0, 0.0, False)}
    assert {row["contribution"] for row in summary["heads"]} == {None}
    assert Circuit.from_dict(summary["circuit"]).size == 0
