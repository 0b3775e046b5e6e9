"""DCM: masked runs and their gradients by plain hooks and by differences, the training loop, and what it selects."""

from __future__ import annotations

from typing import Any

import nnsight
import pytest
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.activation_patching import patched_readouts
from nnsight_et.interventions.dcm import Training, masked_readout, prepare_batches, trained_masks
from nnsight_et.methods.dcm.reasons import tied_sets
from tests.helpers import plain_methods
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-9}
EVERY = tuple(Head(layer, index) for layer in range(3) for index in range(4))
GROUPS = {
    "last": HeadGroup("a", "last", (Head(2, 1), Head(0, 3), Head(1, 0), Head(2, 0))),
    "query_label": HeadGroup("c", "query_label", (Head(1, 2), Head(0, 1), Head(1, 0))),
    "previous_query_label": HeadGroup("d", "previous_query_label", (Head(0, 0), Head(1, 3))),
}
HALFWAY = torch.tensor([0.3, 0.9, 0.0, 0.55], dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return tiny_model(hf_llama(attention_bias=True, dtype=torch.float64))


def trained(
    model, group: HeadGroup, training: Training, train: list[Pair], validation: list[Pair]
) -> dict[str, Tensor]:
    (found,) = trained_masks(model, [group], training, train, validation, Chunks())
    return found


def masked(model, group: HeadGroup, pair: Pair, masks: Tensor, chunks: Chunks | None = None) -> dict[str, Tensor]:
    with model.session():
        (batch,) = prepare_batches(model, [group], pair)
        found = nnsight.save(masked_readout(model, group, batch, masks, chunks or Chunks()).numbers())
    return found


def slope(model, group: HeadGroup, pair: Pair, values: Tensor) -> Tensor:
    """[head]: the gradient of the mean target logit."""
    with model.session():
        mask = values.clone().requires_grad_()
        (batch,) = prepare_batches(model, [group], pair)
        logit = masked_readout(model, group, batch, mask[None], Chunks()).logit
        found = nnsight.save(torch.autograd.grad(logit.mean(), mask)[0])
    return found


def plain_logit(model, group: HeadGroup, pair: Pair, mask: Tensor) -> Tensor:
    logits = plain_methods.masked_logits(model.nn._module, pair, group.heads, group.at, mask)
    return logits[torch.arange(len(logits)), pair.answer].mean()


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(tokens=1), Chunks(branch_tokens=1)], ids=str)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_masked_runs_agree_with_plain_hooks(model, group, chunks):
    pair, size = few_pairs(), len(group.heads)
    masks = torch.stack([torch.ones(size).double(), torch.zeros(size).double(), HALFWAY[:size], 1 - HALFWAY[:size]])
    found = masked(model, group, pair, masks, chunks)["probability"]
    for row, mask in enumerate(masks):
        logits = plain_methods.masked_logits(model.nn._module, pair, group.heads, group.at, mask)
        torch.testing.assert_close(found[row], plain_methods.probabilities(logits, pair.answer), **CLOSE)
    assert (found[2] - found[3]).abs().max() > 1e-5


def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_patches_every_head(model):
    pair = few_pairs()
    for group in GROUPS.values():
        size = len(group.heads)
        found = masked(model, group, pair, torch.stack([torch.ones(size), torch.zeros(size)]).double())
        expected = patched_readouts(model, pair, [Circuit(()), Circuit((group,))], "reference", Chunks())
        torch.testing.assert_close(found["probability"], expected["probability"], **CLOSE)


def with_double_norms(module):
    """The module with norms that do not pass through fp32, as Llama's do: rounding would drown small differences."""
    for name, norm in list(module.named_modules()):
        if name.endswith("norm"):
            double = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
            double.weight.data.copy_(norm.weight)
            module.set_submodule(name, double)
    return module


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_the_masks_gradient_is_that_of_plain_pytorch_and_of_finite_differences(group, side):
    model = tiny_model(with_double_norms(hf_llama(attention_bias=True, dtype=torch.float64)))
    pair, values = few_pairs(side=side), HALFWAY[: len(group.heads)]
    found = slope(model, group, pair, values)
    plain = values.clone().requires_grad_()
    plain_logit(model, group, pair, plain).backward()
    assert plain.grad is not None
    torch.testing.assert_close(found, plain.grad, **CLOSE)
    step = 1e-4
    for head in range(len(values)):
        shift = torch.zeros_like(values)
        shift[head] = step
        up, down = (plain_logit(model, group, pair, values + sign * shift) for sign in (1, -1))
        assert found[head].item() == pytest.approx((up - down).item() / (2 * step), rel=1e-5, abs=1e-9)
    assert found.abs().min() > 1e-4


def test_the_gradient_in_fp32_is_that_of_plain_pytorch_to_1e_5():
    model, pair, group = tiny_model(hf_llama(kv_heads=1)), few_pairs(), GROUPS["last"]
    plain = HALFWAY.float().requires_grad_()
    plain_logit(model, group, pair, plain).backward()
    torch.testing.assert_close(slope(model, group, pair, HALFWAY.float()), plain.grad, atol=1e-5, rtol=1e-5)


def test_a_source_equal_to_the_base_gives_no_gradient_and_no_effect():
    model, pair, group = tiny_model(hf_llama()), few_pairs(), GROUPS["query_label"]
    null = Pair(pair.base, pair.base, pair.answer)
    assert slope(model, group, null, torch.full((3,), 0.5)).abs().max() <= 1e-5
    found = masked(model, group, null, torch.tensor([[1.0, 1, 1], [0, 0.3, 0]]))["probability"]
    assert (found[0] - found[1]).abs().max() <= 1e-6


def trained_by_hooks(model, group: HeadGroup, training: Training, train, validation) -> tuple[list, list, list]:
    """The training of App. H in plain PyTorch: trained masks before rounding, rounded masks, their accuracies."""
    mask = torch.ones(len(group.heads), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([mask], lr=training.learning_rate)
    raw, rounded, accuracies, count = [], [], [], 0
    for _ in range(training.epochs):
        for pair in train:
            mask.data = mask.data.clamp(0, 1)
            loss = -plain_logit(model, group, pair, mask) + training.sparsity * (1 - mask).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += 1
            if count % training.validate_every == 0 or count == training.epochs * len(train):
                raw.append(mask.data.clamp(0, 1))
                rounded.append((raw[-1] > 0.5).double())
                right = [
                    plain_methods.masked_logits(model.nn._module, pair, group.heads, group.at, rounded[-1]).argmax(-1)
                    == pair.answer
                    for pair in validation
                ]
                accuracies.append(torch.cat(right).double().mean().item())
    return raw, rounded, accuracies


def targets(model, pair: Pair, group: HeadGroup, rise: float = 0) -> Pair:
    """The pair with, as its answers, what the model says when the group's heads are patched.

    With a large `rise`, the tokens whose logits that raises most.
    """
    patched = plain_methods.patched_logits(model.nn._module, pair, {group.at: group.heads})
    change = patched - plain_methods.plain_logits(model.nn._module, pair.base)
    return Pair(pair.base, pair.source, (patched + rise * change).argmax(-1))


@pytest.mark.parametrize(("at", "rise"), [("last", 1), ("query_label", 20), ("previous_query_label", 20)])
def test_training_is_that_of_plain_pytorch_step_by_step(model, at, rise):
    group = GROUPS[at]
    data = [targets(model, few_pairs((2, 3), seed=seed), group, rise) for seed in range(5)]
    training = Training(sparsity=0.02, learning_rate=0.2, epochs=3, validate_every=2)
    found = trained(model, group, training, data[:3], data[3:])
    raw, rounded, accuracies = trained_by_hooks(model, group, training, data[:3], data[3:])
    assert found["course"].shape == found["gradients"].shape == (9, len(group.heads))
    torch.testing.assert_close(found["course"][[1, 3, 5, 7, 8]], torch.stack(raw), **CLOSE)
    torch.testing.assert_close(
        found["gradients"][0], slope(model, group, data[0], torch.ones(len(group.heads)).double())
    )
    assert all(((mask - 0.5).abs() > 1e-6).all() for mask in raw)
    assert torch.equal(found["masks"], torch.stack(rounded))
    assert found["accuracies"].tolist() == pytest.approx(accuracies)
    assert len(accuracies) == 5  # after steps 2, 4, 6, 8 and the last
    best = max(range(5), key=lambda i: (accuracies[i], rounded[i].sum(), -i))
    assert torch.equal(found["mask"], rounded[best])
    assert any(not torch.equal(mask, rounded[0]) for mask in rounded)


@pytest.mark.parametrize("chunks", [Chunks(), Chunks(kept=0), Chunks(kept=3)], ids=str)
def test_groups_trained_together_are_each_trained_as_if_alone(model, chunks):
    """Whether captures are kept for the next epoch or made again."""
    groups = list(GROUPS.values())
    data = [targets(model, few_pairs((2, 3), seed=seed), groups[1], 20) for seed in range(4)]
    training = Training(learning_rate=0.2, validate_every=2)
    together = trained_masks(model, groups, training, data[:3], data[3:], chunks)
    for group, found in zip(groups, together, strict=True):
        alone = trained(model, group, training, data[:3], data[3:])
        assert all(torch.equal(found[name], alone[name]) for name in ("mask", "masks", "accuracies"))


def test_a_mask_pushed_beyond_one_starts_from_one_again(model):
    """Batches whose answer is the base's own, then batches whose answer is what patching makes of it."""
    group = HeadGroup("a", "last", (Head(2, 1), Head(1, 0)))
    pairs = [few_pairs((2, 3), seed=seed) for seed in range(4)]
    train = [targets(model, pair, HeadGroup("a", "last", ())) for pair in pairs] + [
        targets(model, pair, group, rise=20) for pair in pairs
    ]
    training = Training(learning_rate=0.3, epochs=1, validate_every=1)
    found = trained(model, group, training, train, train[-1:])["masks"]
    _, rounded, _ = trained_by_hooks(model, group, training, train, train[-1:])
    assert torch.equal(found, torch.stack(rounded))
    assert found[:4].min() == 1
    assert found[-1].min() == 0


@pytest.mark.parametrize(
    "carriers", [(Head(1, 2),), (Head(1, 2), Head(2, 0)), (Head(0, 1), Head(1, 3), Head(2, 2))], ids=str
)
def test_where_only_known_heads_carry_the_answer_exactly_those_are_selected(carriers):
    """The output weights of all other heads are zero; the answer is what the carriers' source outputs make of it."""
    module = hf_llama(kv_heads=4, dtype=torch.float64)
    for head in set(EVERY) - set(carriers):
        width = module.config.head_dim
        out = module.model.layers[head.layer].self_attn.o_proj
        out.weight[:, head.index * width : (head.index + 1) * width] = 0
    model = tiny_model(module)
    data = [targets(model, few_pairs((3,) * 8, seed=seed), HeadGroup("a", "last", carriers)) for seed in range(6)]
    group = HeadGroup("a", "last", EVERY)
    found = trained(model, group, Training(epochs=6), data[:4], data[4:])
    assert {head for head, keep in zip(EVERY, found["mask"].tolist(), strict=True) if keep == 0} == set(carriers)
    assert found["accuracies"].max() == 1
    plain = [plain_methods.plain_logits(module, pair.base).argmax(-1) == pair.answer for pair in data[4:]]
    assert torch.cat(plain).double().mean() < 1  # without them it is not the answer


def test_among_masks_of_equal_accuracy_fewer_heads_win_then_the_earlier(model):
    """Nothing predicts <pad>, so that every validation scores 0; the first mask still keeps every head."""
    group = GROUPS["last"]
    train = [targets(model, few_pairs((2, 3), seed=seed), group) for seed in range(2)]
    pair = few_pairs((2, 3), seed=7)
    never = [Pair(pair.base, pair.source, torch.ones(2, dtype=torch.long))]
    found = trained(model, group, Training(epochs=8, validate_every=1), train, never)
    assert found["accuracies"].tolist() == [0.0] * 16
    selected = (1 - found["masks"]).sum(-1)
    assert selected[0] == 0 < selected[-1]
    assert found["mask"].tolist() == [1.0] * 4
    late = trained(model, group, Training(epochs=8, validate_every=6), train, never)
    counts = (1 - late["masks"]).sum(-1)  # after 6, 12 and 16 steps
    assert counts.max() > counts.min() > 0
    assert torch.equal(late["mask"], late["masks"][counts.argmin()])


def test_other_masks_that_did_just_as_well_are_named_once():
    masks = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]]).float()
    heads = ["L0H1", "L2H0", "L2H3"]
    shares = torch.tensor([0.5, 0.75, 0.75, 0.75, 0.75, 0.25]).double()
    assert tied_sets(heads, {"masks": masks, "mask": masks[1], "accuracies": shares}) == [["L2H0"]]
    assert tied_sets(heads, {"masks": masks, "mask": masks[0], "accuracies": shares}) == []


def test_a_better_mask_with_more_heads_beats_a_worse_one_with_fewer(model):
    group = GROUPS["last"]
    data = [targets(model, few_pairs((2, 3), seed=seed), group) for seed in range(3)]
    found = trained(model, group, Training(epochs=8, validate_every=1), data, data)
    best = found["accuracies"].max()
    assert best > found["accuracies"][0]
    selected = (1 - found["masks"]).sum(-1)
    assert (1 - found["mask"]).sum() == selected[found["accuracies"] == best].min() > 0


def test_what_a_head_costs_decides_whether_any_is_selected(model):
    group = GROUPS["last"]
    data = [targets(model, few_pairs((2, 3), seed=seed), group) for seed in range(2)]
    dear = trained(model, group, Training(sparsity=1e3, epochs=6), data, data)
    assert dear["masks"].min() == 1
    free = trained(model, group, Training(sparsity=0.0, epochs=6), data, data)
    assert free["masks"].min() == 0
