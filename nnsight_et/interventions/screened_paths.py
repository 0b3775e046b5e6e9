"""Path patching of some senders, and a gradient's estimate of what every head's path does, to first order.

Idea: one suffix pass and one one-token pass, both backward, in place of one for each head.

    estimate = (z_source - z_base) . d(receivers' inputs)/dz . d(metric)/d(receivers' inputs)

A head that saturates what reads it has no gradient, so that an estimate alone decides nothing: see measuring/race.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Pair
from nnsight_et.core.circuit import Component, Head
from nnsight_et.core.named_metrics import DEFAULT_METRIC
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture
from nnsight_et.engine.one_token import Receivers, Senders
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Asked, Readout, ReadoutSpec, joined_readouts, stacked_readouts
from nnsight_et.engine.shared_runs import both_runs
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.path_patching import check_ends, numbers_of, path_readouts
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def screened_probabilities(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """What path_probabilities finds of the senders, and "estimate" [1, head, batch] of every head's effect.

    Of every head that can reach the end of the path, row-major: of the paper's metric (p_patched - p) / p, of others
    the difference of their values.
    All estimates are 0 where there are no gradients: on a server that does not trust us. Both take one capture. The
    reference engine measures the senders; its estimates are those of the default one.
    """
    check_ends(model, [path])
    with model.session():
        outcome = nnsight.save(_effects(model, pair.by_row(), path, senders, engine, chunks))
    return check_numbers(model, outcome, [pair])


def _effects(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    heads = [Head(*one) for one in path.reaching(model.n_layers, model.n_heads, model.parallel)]
    layers = sorted({sender.layer for sender in senders})
    starts, ends = path.starts(layers, model.parallel), sorted({receiver.layer for receiver in path.receivers})
    kept = {*starts.values(), *ends[:1]}
    if pair.base.continuation and path.via is None:  # what follows the prompt reads what the senders change
        kept.update(layers, [min(head.layer for head in heads)])
    donors = sorted({head.layer for head in heads})
    capture, donated, clean = both_runs(model, pair, path, starts=kept, donors=donors)
    asked = ReadoutSpec.of(pair, capture.logits)
    if engine == "reference":
        base, patched = reference.path_effects(model, pair, path, senders)
        found = numbers_of(base, stacked_readouts(patched))
    else:
        (token,) = capture.tokens
        parts = path_readouts(
            model, capture, path, senders, token=token, starts=starts, donated=donated, asked=asked, chunks=chunks
        )
        found = numbers_of(clean, joined_readouts(list(parts)))
    estimate = torch.zeros(len(heads), len(pair.base.tokens))
    if model.gradients:
        estimate = _estimates(model, capture, path, heads, donated=donated, asked=asked, chunks=chunks)
    if isinstance(pair.answer, Answers):  # a prompt has several rows
        by_row, owner = estimate, pair.answer.example.cpu()
        estimate = by_row.new_zeros(len(heads), len(pair.right)).index_add(1, owner, by_row)
    if pair.metric == DEFAULT_METRIC:
        estimate = estimate / found["base"]
    return found | {"estimate": estimate[None]}


def _estimates(
    model: Model,
    capture: Capture,
    path: Path,
    heads: Sequence[Head],
    *,
    donated: Mapping[int, Tensor],
    asked: Asked,
    chunks: Chunks,
) -> Tensor:
    """[head, batch]: how far what the metric compares moves, to first order, when a head donates."""
    (token,) = capture.tokens
    leaves = {layer: token.z[layer].detach().clone().requires_grad_() for layer in donated}
    every = Senders.together(model, [heads], leaves)
    if path.via is None and capture.run.continuation:
        slot = capture.live_index(capture.run.positions["last"])
        alone = torch.arange(model.n_heads, device=model.device)
        edits = [Edit(layer, "z", slot, alone, z[None]) for layer, z in leaves.items()]
        total = _value(suffix(model, capture, min(leaves), edits, asked, chunks)).sum()
    elif path.via is None:
        total = _value(one_token.to_logits(model, token, every, asked)).sum()
    else:
        receivers = Receivers.of(model, path.receivers, path.via, path.kv_heads)
        inputs = one_token.to_receivers(model, token, every, receivers)
        clean = {layer: values.detach() for layer, values in inputs.items()}
        slopes = _slopes(model, capture, path, receivers, inputs=clean, asked=asked, chunks=chunks)
        total = torch.stack([(inputs[layer] * slopes[layer]).sum() for layer in inputs]).sum()
    found = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    moved = {layer: ((donated[layer] - token.z[layer]) * slope).sum(-1) for layer, slope in found.items()}
    return torch.stack([moved[head.layer][:, head.index] for head in heads]).detach().cpu()


def _slopes(
    model: Model,
    capture: Capture,
    path: Path,
    receivers: Receivers,
    *,
    inputs: dict[int, Tensor],
    asked: Asked,
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
