"""A call in parts finds what it finds whole; one that has no parts is told so."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from nnsight_et.core.circuit import Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.interventions.split_calls import VARIANT_ARGUMENT, split_call
from tests.helpers.closeness import assert_near
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

GROUP = HeadGroup("a", "last", (Head(0, 1), Head(1, 3), Head(2, 2)))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(hf_llama(seed=3))


def parts_of(model: Any, call: Call) -> tuple[Any, list[str]]:
    """What the call finds in parts, and the names of these."""
    names = []

    def run(part: Call) -> Any:
        names.append(part.name)
        return part.function(model, *part.arguments)

    return split_call(call, run), names


def test_half_the_senders_and_the_other_half_are_all_senders(model):
    path = Path("last", "query", (Head(2, 0),))
    arguments = (few_pairs(), path, path.reaching(3, 4), "default", Chunks())
    found, names = parts_of(model, Call(path_probabilities, arguments, "paths"))
    assert names == ["paths half 1", "paths half 2"]
    whole = path_probabilities(model, *arguments)
    assert set(found) == set(whole)
    for name, values in whole.items():
        assert_near(found[name], values)


def training(epochs: int) -> Call:
    pairs = [few_pairs((2, 3)), few_pairs((3, 3))][:epochs]
    setting = Training(sparsity=0.01, learning_rate=0.4, epochs=epochs, validate_every=1)
    return Call(trained_masks, ([GROUP], setting, pairs, pairs, Chunks()), "masks")


def test_a_training_goes_on_with_its_mask_and_its_moments(model):
    (found,), names = parts_of(model, training(2))
    assert names == ["masks steps to 2", "masks steps to 4", "masks choice"]
    (whole,) = trained_masks(model, *training(2).arguments)
    assert set(found) == set(whole)
    for name, values in whole.items():
        assert torch.equal(found[name], values), name


def test_one_step_and_one_sender_have_no_parts(model):
    assert parts_of(model, training(1)) == (None, [])
    path = Path("last")
    assert parts_of(model, Call(path_probabilities, (few_pairs(), path, [Head(0, 0)], "default", Chunks())))[0] is None


def test_the_argument_that_is_halved_lists_the_variants():
    for function, number in VARIANT_ARGUMENT.items():
        name = list(inspect.signature(function).parameters)[number + 1]
        assert name in ("senders", "circuits", "knocked", "sets", "firsts", "heads", "probes", "edges"), function
