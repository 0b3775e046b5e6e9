"""The planted model answers, and path patching with plain hooks finds exactly the heads that were planted."""

from __future__ import annotations

import pytest
import torch

from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Head
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.zoo.phases import distance_phases, query_and_key, segment_phases, waves
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tools.embedded_models.family import family_heads
from tools.embedded_models.measure import PatchingStage, accuracy, all_heads, stage_scores
from tools.embedded_models.planted import GROUPS, SMALLEST, Plant, make_plant, truth

VIA = {
    "value_fetcher": None,
    "position_transmitter": "query",
    "position_detector": "value",
    "structure_reader": "value",
}


@pytest.fixture(scope="module")
def plant() -> Plant:
    return make_plant()


@pytest.fixture(scope="module")
def pair(plant: Plant) -> Pair:
    return collate(Boxes().examples(plant.tokenizer, 60, seed=4, split="evaluation"))


def test_the_plant_answers_every_prompt(plant: Plant, pair: Pair) -> None:
    assert accuracy(plant.model, pair) == 1.0


@pytest.mark.parametrize("group", list(GROUPS))
def test_path_patching_finds_the_planted_heads_and_no_other(plant: Plant, group: str) -> None:
    groups = list(GROUPS)
    before = groups[groups.index(group) - 1] if group != groups[0] else None
    receivers = plant.truth.group(before).heads if before else ()
    senders = all_heads(plant.model)
    few = collate(Boxes().examples(plant.tokenizer, 10, seed=4, split="discovery"))
    p_base, p_patched = plain_hooks.path_patching(plant.model, few, senders, receivers, VIA[group], GROUPS[group])
    scores = ((p_patched - p_base) / p_base).mean(-1)
    found = {head for head, score in zip(senders, scores.tolist(), strict=True) if score <= -0.01}
    assert found == set(plant.truth.group(group).heads)
    assert scores.min() < -0.5


@pytest.mark.parametrize("group", list(GROUPS))
def test_a_plant_without_one_group_is_lost(pair: Pair, group: str) -> None:
    rest = [planted_head for planted_head in SMALLEST if planted_head.role != group]
    assert accuracy(make_plant(rest).model, pair) < 0.4


def test_the_truth_lists_a_group_from_the_strongest_head_down() -> None:
    fetchers = truth(family_heads()).group("value_fetcher").heads
    assert fetchers[:2] == (Head(5, 0), Head(5, 2))
    assert fetchers[-1] == Head(5, 7)


def test_the_records_path_patching_agrees_with_plain_hooks() -> None:
    plant = make_plant(family_heads(), n_layers=6, contrast=4.0, d_mlp=16)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in plant.model.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=noise))
    few = collate(Boxes().examples(plant.tokenizer, 4, seed=5, split="discovery"))
    senders = [Head(layer, index) for layer in range(6) for index in (0, 1, 2)]
    receivers: tuple[Head, ...] = ()
    for group, at in GROUPS.items():
        expected = plain_hooks.path_patching(plant.model, few, senders, receivers, VIA[group], at)
        scores = stage_scores(plant.model, few, PatchingStage(group, at, VIA[group], 3, 3), receivers)
        rows = [8 * head.layer + head.index for head in senders]
        assert_near(scores.p_base, expected[0])
        assert_near(scores.p_patched[rows], expected[1])
        assert (expected[1] - expected[0]).abs().max() > 0.01
        receivers = plant.truth.group(group).heads[:3]


def test_fitted_phases_look_where_they_should() -> None:
    back = (waves(torch.arange(54)) @ distance_phases(4, 54)).softmax(0)
    assert back[4] > 0.99
    place = torch.arange(1, 54)
    to_bos = torch.sigmoid(waves(place) @ segment_phases(15, 7, 54) - place.double().log())
    assert to_bos[15:20].min() > 0.85  # tokens 16 to 20: segment 2 without its edges
    assert to_bos[torch.cat([torch.arange(12), torch.arange(23, 53)])].max() < 0.1


def test_query_and_key_give_the_fitted_score_after_rotation() -> None:
    phases = distance_phases(2, 54)
    query, key = query_and_key(phases)
    angle = 2 * waves(torch.tensor([1])).double()[0, :16].acos()  # the query stands two tokens after the key
    a, b = query.double().chunk(2)
    turned = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()])
    assert (turned @ key.double() / 32**0.5).item() == pytest.approx(
        (waves(torch.tensor([2])) @ phases).item(), rel=1e-4
    )
