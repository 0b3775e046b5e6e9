"""Why a selection is empty, of no use or decided by little: models and settings that bring about each reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.metrics import is_right
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.dcm import Training as TrainingSpec
from nnsight_et.interventions.dcm import trained_masks
from nnsight_et.manifest import DCM
from nnsight_et.methods.dcm.reasons import Training, reasons
from nnsight_et.models.model import Model
from nnsight_et.results.summary import Reason
from nnsight_et.tasks.boxes import Boxes
from nnsight_et.tasks.desiderata import desideratum
from nnsight_et.zoo.known import CROWDED, POSITION, Known, make_model, parse_heads
from nnsight_et.zoo.layout import CONSTANT, LAYOUT, SCALE
from nnsight_et.zoo.tokenizer import UNKNOWN, vocabulary, word_tokenizer
from tests.helpers.tiny_model import tiny_model

BATCH, TRAINING, HELD_OUT = 8, 40, 12
SPLITS = {"mask_training": TRAINING, "mask_validation": HELD_OUT, "mask_test": HELD_OUT}
FETCHERS = CROWDED.circuit.group("value_fetcher")
Answers = Callable[[Pair], Pair]


def with_fetchers(heads: str) -> Known:
    """The model `position` with other value fetchers."""
    return replace(
        POSITION, heads=(*(one for one in POSITION.heads if one.role != "value_fetcher"), *parse_heads(heads))
    )


THREE = with_fetchers("L4H0 value_fetcher .4; L4H1 value_fetcher .35; L4H2 value_fetcher .35")
UNEVEN = with_fetchers("L4H0 value_fetcher .6; L4H1 value_fetcher .4")


@pytest.fixture(scope="module")
def crowded() -> Model:
    return tiny_model(make_model(CROWDED, 0))


@pytest.fixture(scope="module")
def three() -> Model:
    return tiny_model(make_model(THREE, 0))


def readout(model: Model, pair: Pair, *groups: HeadGroup) -> Tensor:
    """[group + 1, example]: what is predicted with each group's heads patched, and with none."""
    sets = [*(Circuit((group,)) for group in groups), Circuit(())]
    return patched_readouts(model, pair, sets, "default", Chunks())["predicted"]


def right(model: Model, pair: Pair, group: HeadGroup) -> tuple[Tensor, Tensor]:
    """[example]: who answers with the target, with the group's heads patched and with none."""
    patched, nothing = is_right(readout(model, pair, group), pair.right)
    return patched, nothing


def own_answers(model: Model, pair: Pair, of: slice = slice(None)) -> Pair:
    """The pair, for whose examples `of` what the model says by itself is the target."""
    answer = pair.answer.clone()
    answer[of] = readout(model, pair)[0][of]
    return replace(pair, answer=answer)


def impossible(pair: Pair) -> Pair:
    """The pair with targets that no model says."""
    return replace(pair, answer=torch.full_like(pair.answer, vocabulary().index("<pad>")))


def select(
    model: Model,
    group: HeadGroup,
    name: str = "object",
    *,
    train: Answers = lambda pair: pair,
    validation: Answers = lambda pair: pair,
    test: Answers = lambda pair: pair,
    **spec: float,
) -> Training:
    """Train the group's mask on a desideratum of the boxes task and try what it selects."""
    examples = {split: desideratum(Boxes(), name, word_tokenizer(), count, 7, split) for split, count in SPLITS.items()}
    batches = [train(collate(examples["mask_training"][first : first + BATCH])) for first in range(0, TRAINING, BATCH)]
    validated, tested = validation(collate(examples["mask_validation"])), test(collate(examples["mask_test"]))
    settings = DCM.model_validate({"method": "dcm", "circuit": "c", "training_examples": 1000} | spec)
    how = TrainingSpec(settings.sparsity, settings.learning_rate, settings.epochs, settings.validate_every)
    (found,) = trained_masks(model, [group], how, batches, [validated], Chunks())
    chosen = tuple(head for head, keep in zip(group.heads, found["mask"].tolist(), strict=True) if keep == 0)
    ceiling, floor = right(model, validated, group)
    selected, nothing = right(model, tested, HeadGroup(group.name, group.at, chosen))
    return Training(settings, [str(head) for head in group.heads], found, floor, ceiling, nothing, selected)


def only(training: Training) -> Reason:
    (reason,) = reasons(training)
    return reason


def test_a_selection_that_does_what_it_should_needs_no_words(crowded):
    training = select(crowded, FETCHERS)
    assert training.mask == [0, 0]
    assert reasons(training) == []


def test_heads_that_write_nothing_have_no_gradient(crowded):
    """Nor has one whose way to the answer is closed: its gradient is named with its size."""
    reason = only(select(crowded, HeadGroup("idle", "last", (Head(5, 1), Head(5, 2)))))
    assert reason.kind == "gradient"
    assert "the largest gradient of a mask in training was 0.0e+00." in reason.text
    training = select(crowded, HeadGroup("counter", "last", (Head(0, 0),)))
    largest = training.found["gradients"].abs().max().item()
    assert 0 < largest < 1e-16
    assert only(training).kind == "gradient"
    assert f"{largest:.1e}" in only(training).text


def test_a_group_that_cannot_give_the_target_is_told_by_its_ceiling(crowded):
    reason = only(select(crowded, FETCHERS, "position"))
    assert reason.kind == "ceiling"
    text = "Patching the group's 2 heads gives the target on 0.00 of the validation prompts, patching none on 0.00"
    assert reason.text.startswith(text)


def test_where_the_target_is_given_anyway_there_is_nothing_to_gain(crowded):
    own = partial(own_answers, crowded)
    reason = only(select(crowded, FETCHERS, "position", train=own, validation=own, test=own))
    assert reason.kind == "ceiling"
    assert "patching none on 1.00" in reason.text
    assert "take targets that differ" in reason.text


def test_a_penalty_above_what_every_head_adds_keeps_all_masks_at_1(crowded):
    training = select(crowded, FETCHERS, sparsity=1000)
    assert training.found["course"].min() == 1
    assert only(training).kind == "penalty"
    assert "Every mask stayed at 1" in only(training).text
    assert "sparsity is 1000" in only(training).text
    assert select(crowded, FETCHERS, sparsity=0.3).mask == [0, 0]  # the one it asks for
    assert "Try 0.3." in only(training).text


def test_masks_that_never_left_1_as_training_asked_for_the_models_own_answers(crowded):
    training = select(crowded, FETCHERS, train=partial(own_answers, crowded))
    assert training.found["course"].min() > 0.95
    assert only(training).kind == "start"
    assert "Every mask stayed at 1" in only(training).text
    assert "Are the training pairs' targets what the source should give?" in only(training).text


def test_a_training_that_ended_on_its_way_did_not_settle(crowded):
    reader = CROWDED.circuit.group("structure_reader")
    training = select(crowded, reader, "position", epochs=1, validate_every=100)
    last = training.found["course"][-1].item()
    assert 0.55 < last < training.found["course"][-3].item() - 0.05
    assert only(training).kind == "unsettled"
    assert f"to {last:.2f}, in the last 2 steps of 5" in only(training).text
    assert select(crowded, reader, "position", epochs=8).mask == [0]  # what it asks for


def test_masks_that_stay_above_a_half_select_nothing(crowded):
    transmitters = CROWDED.circuit.group("position_transmitter")
    training = select(crowded, transmitters, "position", epochs=1, validate_every=100)
    assert only(training).kind == "halfway"
    assert f"{training.found['course'].min().item():.2f}" in only(training).text


def test_masks_rounded_at_a_half_are_named_and_so_is_a_training_short_of_its_ceiling(crowded):
    """Five steps of 0.1 from 1."""
    training = select(crowded, FETCHERS, epochs=1, validate_every=100)
    assert [round(one, 2) for one in training.found["course"][-1].tolist()] == [0.5, 0.5]
    near = reasons(training)[-1]
    assert near.kind == "threshold"
    assert "L5H0 0.5" in near.text
    assert "L5H7 0.5" in near.text


def test_among_masks_that_did_as_well_the_one_without_heads_is_told_to_have_won_by_having_none(three):
    """The penalty lets one head of three through, which is not enough to change the answer."""
    training = select(three, THREE.circuit.group("value_fetcher"), sparsity=2.0)
    assert training.found["masks"].min() == 0
    assert training.mask == [1, 1, 1]
    assert only(training).kind == "tie"
    assert "In validation, masks that select heads did no better than selecting none, 0.00" in only(training).text
    assert "the group's 3 heads reach 1.00" in only(training).text


def test_a_choice_between_as_many_heads_by_order_alone_is_told(three):
    training = select(three, THREE.circuit.group("value_fetcher"), sparsity=1.85, learning_rate=0.6, validate_every=1)
    assert training.mask == [0, 0, 1]
    assert only(training).kind == "tie"
    assert "Other sets of as many heads did as well in validation: L4H0 L4H2." in only(training).text


def test_masks_with_heads_that_did_worse_than_none_are_told():
    """One of the two heads alone leaves no answer, where some validation pairs ask for the model's own."""
    module = make_model(UNEVEN, 0)
    module.lm_head.weight.data[vocabulary().index(UNKNOWN), LAYOUT.constant] = 4.5 / (CONSTANT * SCALE)
    model = tiny_model(module)
    some = partial(own_answers, model, of=slice(2))
    training = select(model, UNEVEN.circuit.group("value_fetcher"), validation=some, sparsity=2.7)
    assert training.mask == [1, 1]
    assert only(training).kind == "worse"
    assert "In validation, masks that select heads did worse than selecting none: 0.00 and 0.17" in only(training).text


def test_heads_that_do_nothing_on_the_test_prompts_are_told(crowded):
    training = select(crowded, FETCHERS, test=impossible)
    assert training.mask == [0, 0]
    assert only(training).kind == "useless"
    text = "The selected heads give the target on 0.00 of the test prompts, no heads on 0.00"
    assert only(training).text.startswith(text)
