"""Attribution patching: the gradient's estimate of patching each head's output, next to the exact effect.

Idea: one backward pass gives a first-order estimate for all heads at once.

    estimate = (z_source - z_base) · dp/dz / p;   exact = (p_patched - p) / p
"""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Pair
from nnsight_et.core.circuit import Head, HeadGroup
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import capture_run, head_outputs, suffix_of
from nnsight_et.engine.readout import readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.dcm import STEPS, Prepared, masked_readout
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def head_effects(
    model: Model, pair: Pair, at: str, heads: Sequence[Head], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """{"attributed", "exact"}: [head, batch], (p_patched - p_base) / p_base when one head at `at` is patched.

    "autograd" [batch] says whether the gradients were autograd's. NaN where p_base is 0 or too small for its dtype.

    Exact: each head in turn takes the source's output, nothing frozen. Attributed: the first-order estimate, gradient
    times difference, of all heads from one forward pass.
    """
    with model.session():
        effects = _reference_effects if engine == "reference" else _head_effects
        found = effects(model, pair.by_row(), at, heads, chunks)
        outcome = nnsight.save(found | {"autograd": torch.full((len(pair.base.tokens),), model.gradients)})
    base = outcome.pop("base")
    too_small = base < torch.finfo(base.dtype).tiny
    check_numbers(model, {"base": base} if bool(too_small.any()) else outcome | {"base": base}, [pair])
    return outcome | {name: outcome[name].masked_fill(too_small, torch.nan) for name in ("attributed", "exact")}


def _head_effects(model: Model, pair: Pair, at: str, heads: Sequence[Head], chunks: Chunks) -> dict[str, Tensor]:
    layers, position = sorted({head.layer for head in heads}), pair.base.positions[at]
    donated = head_outputs(model, pair.source, {at: layers})[at]
    capture = capture_run(model, pair.base, suffix_of(pair.base, position), layers)
    batch = Prepared(capture, layers[0], pair.answer, capture.live_index(position), donated)
    base = readout(capture.logits, pair.answer).probability
    exact = _patch_each(model, batch, heads, chunks)
    found = {
        "attributed": _compute_attribution(model, HeadGroup(at, at, tuple(heads)), batch, base, chunks),
        "exact": ((exact - base) / base).cpu(),
    }
    return found | {"base": base.cpu()}


def _patch_each(model: Model, batch: Prepared, heads: Sequence[Head], chunks: Chunks) -> Tensor:
    """[head, batch]: the probability when one head is patched, recomputed from its own layer up. Opens traces."""
    found = dict[Head, Tensor]()
    for layer, donated in batch.donated.items():
        some = [head for head in heads if head.layer == layer]
        index = torch.tensor([head.index for head in some], device=model.device)
        keep = ~torch.eye(len(some), dtype=torch.bool, device=model.device)
        edit = Edit(layer, "z", batch.slot, index, donated[None][:, :, index], keep)
        probability = suffix(model, batch.capture, layer, [edit], batch.answer, chunks).probability
        found.update(zip(some, probability, strict=True))
    return torch.stack([found[head] for head in heads])


def _compute_attribution(model: Model, group: HeadGroup, batch: Prepared, base: Tensor, chunks: Chunks) -> Tensor:
    """[head, batch]: -d(p / p_base)/dm at m = 1, where z = m * z_base + (1 - m) * z_source; see dcm.mask_gradient.

    No prompt of a batch depends on another's masks, so that one way back gives the gradients of all.
    """
    count = len(group.heads)
    if not model.gradients:
        step = STEPS[model.dtype]
        moves = step * torch.eye(count, dtype=base.dtype, device=base.device)
        p = masked_readout(model, group, batch, torch.cat([1 + moves, 1 - moves]), chunks).probability
        return ((p[count:] - p[:count]) / (2 * step * base)).cpu()
    mask = torch.ones(len(base), count, dtype=model.dtype, device=model.device, requires_grad=True)
    rows = mask[batch.answer.example] if isinstance(batch.answer, Answers) else mask
    ratio = masked_readout(model, group, batch, rows[None], chunks).probability[0] / base
    (slope,) = torch.autograd.grad(ratio.sum(), mask)
    return -slope.T.cpu()


def _reference_effects(model: Model, pair: Pair, at: str, heads: Sequence[Head], chunks: Chunks) -> dict[str, Tensor]:
    base = reference.run_with_replacements(model, pair.base, {}, pair.answer).probability
    z = reference.head_outputs(model, pair.base), reference.head_outputs(model, pair.source)
    exact, slopes = [], []
    for head in heads:
        exact.append(_interpolated_probability(model, pair, at, head, z, torch.ones_like(base)) / base - 1)
        slopes.append(_slope(model, pair, at, head, z) / base)
    return {"attributed": torch.stack(slopes).cpu(), "exact": torch.stack(exact).cpu(), "base": base.cpu()}


def _slope(model: Model, pair: Pair, at: str, head: Head, z: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """[batch]: the derivative, at no share, of the probability by the share of the way; see dcm.mask_gradient."""
    share = torch.zeros(len(pair.right), dtype=torch.float64, device=model.device)
    if model.gradients:
        share.requires_grad_()
        (slope,) = torch.autograd.grad(_interpolated_probability(model, pair, at, head, z, share).sum(), share)
        return slope
    step = STEPS[model.dtype]
    up, down = (_interpolated_probability(model, pair, at, head, z, share + sign * step) for sign in (1, -1))
    return (up - down) / (2 * step)


def _interpolated_probability(
    model: Model, pair: Pair, at: str, head: Head, z: tuple[list[Tensor], list[Tensor]], share: Tensor
) -> Tensor:
    """[batch]: the probability with the head a share [batch] of the way from its output in the base to the source's."""
    position = pair.base.positions[at]
    row = torch.arange(len(position), device=model.device)
    if isinstance(pair.answer, Answers):
        share = share[pair.answer.example]
    base, source = (one[head.layer] for one in z)
    values, where = base.clone(), torch.zeros(base.shape[:-1], dtype=torch.bool, device=model.device)
    own, other = base[row, position, head.index], source[row, pair.source.positions[at], head.index]
    values[row, position, head.index] = own + share[:, None].to(own.dtype) * (other - own)
    where[row, position, head.index] = True
    replacement = {head.layer: reference.Replacement(values, where)}
    return reference.run_with_replacements(model, pair.base, replacement, pair.answer).probability
