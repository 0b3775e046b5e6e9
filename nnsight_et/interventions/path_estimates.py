"""A gradient's estimate of path patching: what each head's path does, of all heads at once, to first order.

Idea: one suffix pass and one one-token pass, both backward, in place of one for each head.

    estimate = (z_source - z_base) . d(receivers' inputs)/dz . d(metric)/d(receivers' inputs)

A head that saturates what reads it has no gradient, so that an estimate alone decides nothing: see measuring/race.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Component, Head
from nnsight_et.core.named_metrics import DEFAULT_METRIC
from nnsight_et.engine import one_token
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, capture_run, head_outputs, suffix_of
from nnsight_et.engine.one_token import Receivers, Senders
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Readout, ReadoutSpec, readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def path_estimates(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks
) -> dict[str, Tensor]:
    """{"estimate": [sender, batch]}: of each head's effect, to first order; "gradients" [batch]: whether there are any.

    Of the paper's metric, (p_patched - p) / p, and of others the difference of their values. Where gradients do not
    pass through the model, on a server that does not trust us, all estimates are 0.
    """
    with model.session():
        outcome = nnsight.save(_estimates(model, pair, path, senders, chunks))
    return check_numbers(model, outcome, [pair])


def _estimates(model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks) -> dict[str, Tensor]:
    run, there = pair.base, torch.full((len(pair.answer),), model.gradients)
    if not model.gradients:
        return {"estimate": torch.zeros(len(senders), len(there)), "gradients": there}
    receivers = Receivers.of(model, path.receivers, path.via, path.kv_heads) if path.via else None
    place, layers = run.positions[path.at], sorted({sender.layer for sender in senders})
    start = min(receivers.heads) if receivers else model.n_layers
    capture = capture_run(model, run, suffix_of(run, place), [start] if receivers else [], [place])
    (token,) = capture.tokens
    donated = head_outputs(model, pair.source, {path.at: layers})[path.at]
    leaves = {layer: token.z[layer].detach().clone().requires_grad_() for layer in layers}
    every = Senders.together(model, [[Head(*one) for one in senders]], leaves)
    asked = ReadoutSpec.of(pair, capture.logits)
    if receivers is None:
        total = _value(one_token.to_logits(model, token, every, asked)).sum()
    else:
        inputs = one_token.to_receivers(model, token, every, receivers)
        clean = {layer: values.detach() for layer, values in inputs.items()}
        slopes = _slopes(model, capture, path, receivers, inputs=clean, asked=asked, chunks=chunks)
        total = sum(((inputs[layer] * slopes[layer]).sum() for layer in inputs), torch.zeros((), device=model.device))
    found = dict(zip(layers, torch.autograd.grad(total, [leaves[layer] for layer in layers]), strict=True))
    moved = {layer: ((donated[layer] - token.z[layer]) * found[layer]).sum(-1) for layer in layers}  # [batch, head]
    estimate = torch.stack([moved[layer][:, index] for layer, index in map(tuple, senders)])
    if pair.metric == DEFAULT_METRIC:
        estimate = estimate / readout(capture.logits, pair.answer).probability
    return {"estimate": estimate.detach().cpu(), "gradients": there}


def _slopes(
    model: Model,
    capture: Capture,
    path: Path,
    receivers: Receivers,
    *,
    inputs: dict[int, Tensor],
    asked: Tensor | ReadoutSpec,
    chunks: Chunks,
) -> dict[int, Tensor]:
    """Receiver layer -> the metric's derivative by its inputs [1, batch, k, d_head], one suffix pass and back."""
    leaves = {layer: values.clone().requires_grad_() for layer, values in inputs.items()}
    slot = capture.live_index(capture.run.positions[path.at])
    site = "mlp" if receivers.via == "input" else receivers.via
    edits = [
        Edit(layer, site, slot, receivers.heads[layer], values, visible_to_heads=receivers.seen_by.get(layer))
        for layer, values in leaves.items()
    ]
    value = _value(suffix(model, capture, min(leaves), edits, asked, chunks))
    found = torch.autograd.grad(value.sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def _value(found: Readout) -> Tensor:
    """[1, batch]: what the metric compares."""
    return found.probability if found.value is None else found.value
