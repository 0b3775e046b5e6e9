"""Our rules on the published results: they give what the authors stored, without any model."""

from __future__ import annotations

from math import ceil
from statistics import mean, pstdev

import pytest
import torch

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Head
from nnsight_et.core.metrics import causal_impact, circuit_overlap, completeness, greedy_set, is_kept
from nnsight_et.manifest import Stage
from nnsight_et.methods.path_patching.experiment import assembled_circuit, ranking
from tests.helpers.published_results import AT, DESIDERATA, GROUPS, heads, shared, value

KEEP = {"llama": (58, 10, 25, 5), "goat": (101, 30, 50, 40), "float": (102, 30, 50, 40)}
LEFT = {"llama": (50, 10, 25, 5), "goat": (80, 30, 50, 40), "float": (80, 30, 50, 40)}
THRESHOLD = {"llama": 0.01, "goat": 0.0, "float": 0.0}
OVERLAPS = {
    "goat": ((40, 68, 27, 0.68, 0.4), (7, 28, 6, 0.86, 0.21), (20, 40, 16, 0.8, 0.4), (5, 39, 5, 1.0, 0.13)),
    "float": ((40, 68, 27, 0.68, 0.4), (7, 29, 7, 1.0, 0.24), (20, 40, 15, 0.75, 0.38), (5, 38, 5, 1.0, 0.13)),
}


@pytest.mark.parametrize("name", published.CIRCUITS)
def test_the_best_scores_without_overlaps_are_the_candidates(name):
    stored = shared("minimality.json")[name]
    every = [Head(layer, index) for layer in range(32) for index in range(32)]
    stages, ranked = [], {}
    for (group, keep), at in zip(zip(GROUPS.values(), KEEP[name], strict=True), AT, strict=True):
        stages.append(Stage(group=group, into="logits", at=at, keep=keep))
        score = torch.tensor(published.scores(name)[group], dtype=torch.float64)
        ranked[group] = ranking(score, every)[:keep]
    candidates = assembled_circuit(tuple(stages), ranked)
    assert tuple(len(group.heads) for group in candidates.groups) == LEFT[name]
    for group in GROUPS:
        assert candidates.group(GROUPS[group]).heads == heads(stored[group]["heads"])


@pytest.mark.parametrize("name", published.CIRCUITS)
def test_the_keep_rule_on_the_stored_accuracies_gives_the_circuits(name):
    for group, stored in shared("minimality.json")[name].items():
        kept = [
            head
            for head, (before, after) in zip(heads(stored["heads"]), stored["significance"], strict=True)
            if is_kept(before, after, THRESHOLD[name])
        ]
        assert tuple(kept) == published.circuit(name).group(GROUPS[group]).heads


def test_at_one_percent_goat_and_float_would_have_90_and_97_heads():
    sizes = {
        name: sum(is_kept(*pair, threshold=0.01) for stored in groups.values() for pair in stored["significance"])
        for name, groups in shared("minimality.json").items()
    }
    assert sizes == {"llama": 72, "goat": 90, "float": 97}


def test_the_greedy_rule_removes_as_many_heads_as_the_authors_did():
    sizes = []
    for groups in shared("minimality.json").values():
        for stored in groups.values():
            pairs = stored["pair_accuracy"]
            found = [len(greedy_set(pairs, head, 0.3)) for head in range(len(pairs))]
            assert found == stored["removed_set_size"]
            assert max(found) <= ceil(0.3 * len(pairs)) == stored["k_from_filename"]
            sizes += found
    assert len(sizes) == 490
    assert sizes.count(0) == 14


def test_removing_one_more_head_gives_the_stored_accuracies():
    """Where K is empty, or one head of another index, before and after are in the pair matrix."""
    checked = 0
    for groups in shared("minimality.json").values():
        for stored in groups.values():
            pairs, found = stored["pair_accuracy"], heads(stored["heads"])
            for head, (before, after) in enumerate(stored["significance"]):
                removed = greedy_set(pairs, head, 0.3)
                if not removed:
                    assert after == pairs[head][head]
                elif len(removed) == 1 and found[removed[0]].index != found[head].index:
                    (other,) = removed
                    assert (before, after) == (pairs[other][other], pairs[head][other])
                else:
                    continue
                checked += 1
    assert checked == 32


@pytest.mark.parametrize(("name", "table"), [("goat", "Table A6"), ("float", "Table A10")])
def test_the_overlap_tables_are_exact(name, table):
    *groups, total = circuit_overlap(published.circuit("llama"), published.circuit(name))
    rows = tuple((one.first, one.second, one.shared, round(one.precision, 2), round(one.recall, 2)) for one in groups)
    assert rows == OVERLAPS[name]
    assert total == ("total", 72, 175, 54)
    columns = ("llama", name, "intersection", "precision", "recall")
    for group, row in zip(groups, rows, strict=True):
        assert tuple(value(table, group.group, column).value for column in columns) == row


def test_goat_and_float_share_113_heads():
    overlaps = circuit_overlap(published.circuit("goat"), published.circuit("float"))
    assert [one.shared for one in overlaps] == [40, 18, 28, 27, 113]


def test_masks_round_to_the_selected_heads():
    checked = 0
    for name, groups in shared("dcm.json").items():
        for group, desiderata in groups.items():
            members = published.circuit(name).group(GROUPS[group]).heads
            for desideratum, stored in desiderata.items():
                clamped = [min(max(kept, 0.0), 1.0) for kept in stored["mask"]]
                chosen = tuple(head for head, kept in zip(members, clamped, strict=True) if round(kept) == 0)
                assert chosen == published.selections(name)[GROUPS[group]][DESIDERATA[desideratum]]
                assert chosen == heads(stored["selected_heads"])
                checked += 1
    assert checked == 47 == sum(len(group) for name in KEEP for group in published.selections(name).values())


def test_completeness_means_and_deviations_are_those_of_the_points():
    tables = {"Figure A3": "Table A1", "Figure A4": "Table A4", "Figure A6": "Table A8"}
    for figure, table in tables.items():
        rows = {number.row for number in published.numbers() if number.table == figure}
        random = sorted(row for row in rows if row.startswith("random"))
        assert len(random) == (10 if figure == "Figure A3" else 20)
        points = [(value(figure, row, "circuit").value, value(figure, row, "full_model").value) for row in random]
        columns = {
            "circuit": [circuit for circuit, _ in points],
            "full_model": [model for _, model in points],
            "completeness": [completeness(*point) for point in points],
        }
        for column, values in columns.items():
            printed = value(table, "random", column)
            assert mean(values) == pytest.approx(printed.value, abs=0.00501)
            assert pstdev(values) == pytest.approx(printed.std, abs=0.00501)
        for group in GROUPS.values():
            point = value(figure, group, "circuit").value, value(figure, group, "full_model").value
            assert completeness(*point) == pytest.approx(value(table, group, "completeness").value)


@pytest.mark.parametrize("name", published.CIRCUITS)
def test_faithfulness_tables_agree_with_themselves(name):
    table = {"llama": "Table 1", "goat": "Table A5", "float": "Table A9"}[name]
    for model in ("llama", "vicuna", "goat", "float"):
        whole, circuit, ratio = (
            value(table, model, column).value for column in ("full_model", "circuit", "faithfulness")
        )
        assert circuit / whole == pytest.approx(ratio, abs=0.02)  # the accuracies are rounded to two digits


@pytest.mark.parametrize("name", ["goat", "float"])
def test_causal_impact_orders_every_head_of_either_circuit(name):
    scores, largest = published.scores(name), {}
    both = published.circuit("llama"), published.circuit(name)
    for group in (group for circuit in both for group in circuit.groups):
        for head in group.heads:
            largest.setdefault(head, []).append(abs(scores[group.name][head.layer][head.index]))
    ranked = causal_impact(*both, scores)
    assert {one.head: one.score for one in ranked} == {head: max(found) for head, found in largest.items()}
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert sum(one.in_finetuned for one in ranked) == len({head for group in both[1].groups for head in group.heads})
    assert sum(one.in_pretrained for one in ranked) == 67  # of 72, five being in two groups


@pytest.mark.parametrize(
    ("name", "sizes"), [("llama", (40, 5, 14, 5)), ("goat", (56, 15, 18, 39)), ("float", (60, 13, 22, 38))]
)
def test_cmap_patches_the_heads_of_each_groups_functionality(name, sizes):
    patched = published.cmap_circuit(name)
    assert tuple(len(group.heads) for group in patched.groups) == sizes
    for group in patched.groups:
        whole = published.circuit(name).group(group.name)
        assert group.at == whole.at
        assert set(group.heads) <= set(whole.heads)
