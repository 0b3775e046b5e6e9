"""Desiderata-based component masking (§5.1, App. H): which heads of a group carry one variable, found by gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Pair
from nnsight_et.circuit import Circuit, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, captured, head_outputs, suffix_of
from nnsight_et.engine.readout import Readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.activation_patching import layers_of
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Training:
    """How a mask is trained: the paper's numbers are the defaults (App. H)."""

    sparsity: float = 0.01  # lambda: what each selected head costs
    learning_rate: float = 0.1
    epochs: int = 2
    validate_every: int = 4  # batches


@dataclass(frozen=True)
class Prepared:
    """One batch, ready for any mask: its capture, and the source's outputs of the group's heads."""

    capture: Capture
    start: int
    answer: Tensor
    slot: Tensor
    donated: dict[int, Tensor]  # layer -> [batch, head, d_head]


def trained_mask(
    model: Model,
    group: HeadGroup,
    training: Training,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    chunks: Chunks,
) -> dict[str, Tensor]:
    """{"mask": [head], "accuracies": [validation], "masks": [validation, head]} for the group's heads, in its order.

    Per head m in [0, 1], one at first: z <- m * z_base + (1 - m) * z_source, each at its own position. Minimised:
    -(mean logit of the target) + sparsity * sum(1 - m). The mask returned is the rounded one (0.5 -> 0: selected) with
    the best validation accuracy; on a tie the one with fewer selected heads, then the earlier.
    """
    with model.session():
        outcome = nnsight.save(_trained(model, group, training, train, validation, chunks))
    return outcome


def masked_readout(model: Model, group: HeadGroup, batch: Prepared, mask: Tensor, chunks: Chunks) -> Readout:
    """[mask, batch]: the readout under each of the masks [mask, head]; gradients flow to them. Opens traces."""
    edits = []
    for layer, values in batch.donated.items():
        members = [i for i, head in enumerate(group.heads) if head.layer == layer]
        heads = torch.tensor([group.heads[i].index for i in members], device=model.device)
        edits.append(Edit(layer, "z", batch.slot, heads, values[None][:, :, heads], mask[:, members]))
    return suffix(model, batch.capture, batch.start, edits, batch.answer, chunks)


def prepared(model: Model, group: HeadGroup, pair: Pair) -> Prepared:
    """The batch's base run captured from the group's position on, and its source's head outputs. Opens traces."""
    at = pair.base.positions[group.at]
    donated = head_outputs(model, pair.source, layers_of([Circuit((group,))]))[group.at]
    capture = captured(model, pair.base, suffix_of(pair.base, at), [min(donated)])
    return Prepared(capture, min(donated), pair.answer, capture.slot(at), donated)


def _trained(
    model: Model,
    group: HeadGroup,
    training: Training,
    train: Sequence[Pair],
    validation: Sequence[Pair],
    chunks: Chunks,
) -> dict[str, Tensor]:
    batches = [prepared(model, group, pair) for pair in train]
    held_out = [prepared(model, group, pair) for pair in validation]
    mask = torch.ones(len(group.heads), dtype=model.dtype, device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=training.learning_rate)
    masks, accuracies, steps = [], [], len(batches) * training.epochs
    for step, batch in enumerate(batches * training.epochs, start=1):
        with torch.no_grad():
            mask.clamp_(0, 1)
        readout = masked_readout(model, group, batch, mask[None], chunks)
        loss = training.sparsity * (1 - mask).sum() - readout.logit.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % training.validate_every == 0 or step == steps:
            masks.append(mask.detach().clamp(0, 1).round())
            accuracies.append(_accuracy(model, group, held_out, masks[-1], chunks))
    best = max(range(len(masks)), key=lambda i: (accuracies[i], masks[i].sum().item(), -i))
    return {"mask": masks[best].cpu(), "masks": torch.stack(masks).cpu(), "accuracies": torch.tensor(accuracies)}


def _accuracy(model: Model, group: HeadGroup, batches: Sequence[Prepared], mask: Tensor, chunks: Chunks) -> float:
    right = [masked_readout(model, group, batch, mask[None], chunks).predicted[0] == batch.answer for batch in batches]
    return torch.cat(right).double().mean().item()
