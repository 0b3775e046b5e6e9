"""The memory a plan says it will take, against the bytes of all tensors there are at once, counted as they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.allocated import Allocated
from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.ablation import AblationValues, circuit_readouts, model_readouts, remainder_readouts
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.dcm import Training, trained_masks
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.manifest import DCM
from nnsight_et.models.catalog import TINY
from nnsight_et.planning.cost import methods
from nnsight_et.planning.cost.methods import Prompts, Rows, Sizes
from nnsight_et.planning.cost.paths import path_patching
from nnsight_et.tasks.boxes import Boxes
from tests.helpers.tiny_model import hf_llama, tiny_model, tokenizer

SHAPE, COUNT, CLOSE = replace(TINY, vocabulary=122), 6, 0.15  # the target


@pytest.fixture(scope="module")
def model():
    sizes: dict[str, Any] = {"hidden_size": SHAPE.d_model, "intermediate_size": SHAPE.d_mlp, "head_dim": SHAPE.d_head}
    return tiny_model(hf_llama(SHAPE.n_layers, SHAPE.n_heads, SHAPE.n_kv_heads, **sizes))


@pytest.fixture(scope="module")
def pair():
    examples = Boxes().examples(tokenizer(), 80, 0, "discovery")
    return collate([one for one in examples if one.base.positions["previous_query_label"] == 20][:COUNT])


def group(at: str) -> HeadGroup:
    return HeadGroup(at, at, (Head(1, 0), Head(4, 1)))


MANY = Chunks()
SOME = Chunks(tokens=1500)  # a pass has few of the variants


@pytest.mark.parametrize(
    "what",
    ["plain", "alone", "without", "last", "label", "label in parts", "values", "masks", "masks at last"],
)
def test_the_most_bytes_at_once_are_what_the_formula_says(model, pair, what):
    places = {name: int(index[0]) for name, index in pair.base.positions.items()}
    sizes = Sizes(SHAPE, SOME if "parts" in what else MANY)
    rows, circuit = Rows(sizes, (Prompts(COUNT, 54, places),)), Circuit((group("last"), group("query_label")))
    (prompts,), chunks = rows.of(COUNT, ["last"]), sizes.chunks
    sets = [Circuit((group("last" if what == "last" else "previous_query_label"),))] * 12
    masked = group("last" if "last" in what else "previous_query_label")
    spec = DCM(
        method="dcm", circuit="c", training_examples=COUNT, validation_examples=COUNT, batch=COUNT, validate_every=1
    )
    path, senders = Path("previous_query_label", "value", (Head(3, 1), Head(5, 2))), [Head(0, i) for i in range(8)]
    run, count = {
        "plain": (lambda: model_readouts(model, pair.question, "default"), methods.plain(rows, COUNT)),
        "alone": (
            lambda: circuit_readouts(
                model, pair.question, AblationValues(means(pair)), [circuit] * 40, "default", chunks
            ),
            methods.circuit_work(rows, COUNT, 40, circuit.positions),
        ),
        "without": (
            lambda: remainder_readouts(
                model, pair.question, AblationValues(means(pair)), [sets[0]] * 12, "default", chunks
            ),
            methods.without(rows, COUNT, 12, ["previous_query_label"]),
        ),
        "masks": (
            lambda: trained_masks(model, [masked], Training(), [pair], [pair], chunks),
            methods.masks(rows, spec, [masked]),
        ),
        "values": (
            lambda: path_probabilities(model, pair, path, senders, "default", chunks),
            path_patching(sizes, prompts, path, senders),
        ),
    }.get(what.removesuffix(" at last")) or (
        lambda: patched_readouts(model, pair, sets, "default", chunks),
        methods.patching_work(rows, COUNT, [sets]),
    )
    with Allocated() as counter:
        run()
    assert count.peak(SHAPE, 4) == pytest.approx(counter.peak, rel=CLOSE), count.peak(SHAPE, 4) / counter.peak


def means(pair) -> torch.Tensor:
    return torch.zeros(SHAPE.n_layers, pair.base.tokens.shape[1], SHAPE.n_heads, SHAPE.d_head)


def test_the_counter_counts_what_is_alive_and_no_view_twice():
    with Allocated() as counter:
        one = torch.zeros(1000)
        view = one[:10].t()
        assert (counter.now, counter.peak) == (4000, 4000)
        del one
        assert counter.now == 4000
        view = view + 1
        assert (counter.now, counter.peak) == (40, 4040)
