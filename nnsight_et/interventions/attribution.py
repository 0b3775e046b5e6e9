"""Attribution patching: the gradient's guess at what patching each head's output would do, beside what it does."""

from __future__ import annotations

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Pair
from nnsight_et.circuit import Circuit, Head, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.readout import readout
from nnsight_et.interventions.activation_patching import with_donation
from nnsight_et.interventions.dcm import Prepared, masked_readout, prepared
from nnsight_et.models.model import Model


def head_effects(model: Model, pair: Pair, at: str, chunks: Chunks) -> dict[str, Tensor]:
    """{"attributed", "exact"}: [layer * head, batch], (p_patched - p_base) / p_base when one head at `at` is patched.

    Exact: each head in turn takes the source's output, nothing frozen. Attributed: the first-order estimate, gradient
    times difference, of all heads from one forward pass.
    """
    with model.session():
        outcome = nnsight.save(_head_effects(model, pair, at, chunks))
    return outcome


def _head_effects(model: Model, pair: Pair, at: str, chunks: Chunks) -> dict[str, Tensor]:
    every = tuple(Head(layer, index) for layer in range(model.n_layers) for index in range(model.n_heads))
    group = HeadGroup(at, at, every)
    batch = prepared(model, group, pair)
    alone = [Circuit((HeadGroup(str(head), at, (head,)),)) for head in every]
    exact = with_donation(model, pair.question, {at: batch.donated}, alone, "default", chunks).probability
    base = readout(batch.capture.logits, pair.answer).probability
    return {"attributed": _attributed(model, group, batch, base, chunks), "exact": ((exact - base) / base).cpu()}


def _attributed(model: Model, group: HeadGroup, batch: Prepared, base: Tensor, chunks: Chunks) -> Tensor:
    """[head, batch]: -d(p / p_base)/dm at m = 1, where z = m * z_base + (1 - m) * z_source."""
    columns = []
    mask = torch.ones(1, len(group.heads), dtype=model.dtype, device=model.device, requires_grad=True)
    ratio = masked_readout(model, group, batch, mask, chunks).probability[0] / base
    for example in range(len(base)):
        (slope,) = torch.autograd.grad(ratio[example], mask, retain_graph=True)
        columns.append(-slope[0])
    return torch.stack(columns, -1).detach().cpu()
