"""Path patching (§4.1): what the answer's probability loses when one path, from a head to later heads, breaks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Pair
from nnsight_et.circuit import Head
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import captured, head_outputs, suffix_of
from nnsight_et.engine.one_token import Receivers
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Asked, Readout, joined, readout, stacked
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.model import Model


def path_probabilities(
    model: Model, pair: Pair, path: Path, senders: Sequence[Head], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """{"base": [batch], "patched": [sender, batch]}: the answer's probability without and with each path patched.

    If the pair's metric is not the paper's, its values too, "base_value" and "patched_value". No logits leave.

    Senders are in ascending order, and can all reach the end of the path: Path.reaching lists those that can.
    """
    assert list(senders) == sorted(senders), "senders in the order of a forward pass"
    with model.session():
        effects = _reference_effects if engine == "reference" else _effects
        outcome = nnsight.save(effects(model, pair, path, senders, chunks))
    return outcome


def _effects(model: Model, pair: Pair, path: Path, senders: Sequence[Head], chunks: Chunks) -> dict[str, Tensor]:
    at = pair.base.positions[path.at]
    receivers = Receivers.of(model, path.receivers, path.via, path.kv_heads) if path.via else None
    ends = sorted(receivers.heads) if receivers else []
    layers = sorted({sender.layer for sender in senders})
    starts = {layer: next(end for end in ends if end > layer) for layer in layers} if receivers else {}
    capture = captured(model, pair.base, suffix_of(pair.base, at), starts.values(), at)
    assert capture.token is not None
    asked = Asked.of(pair, capture.logits)
    step = chunks.variants(len(pair.answer), capture.live.shape[1])
    source_z = head_outputs(model, pair.source, {path.at: layers})[path.at]
    parts: list[Readout] = []
    for layer, group in groupby(senders, lambda head: head.layer):
        heads = torch.tensor([head.index for head in group], device=model.device)
        for some in heads.split(step):
            if receivers is None:
                parts.append(one_token.to_logits(model, capture.token, layer, some, source_z[layer], asked))
                continue
            inputs = one_token.to_receivers(model, capture.token, layer, some, source_z[layer], receivers)
            slot = capture.slot(at)
            edits = [
                Edit(end, receivers.via, slot, receivers.heads[end], values, seen_by=receivers.seen_by.get(end))
                for end, values in inputs.items()
            ]
            parts.append(suffix(model, capture, starts[layer], edits, asked, chunks))
    return _numbers(readout(capture.logits, asked), joined(parts))


def _reference_effects(
    model: Model, pair: Pair, path: Path, senders: Sequence[Head], chunks: Chunks
) -> dict[str, Tensor]:
    base, patched = reference.path_effects(model, pair, path, senders)
    return _numbers(base, stacked(patched))


def _numbers(base: Readout, patched: Readout) -> dict[str, Tensor]:
    found = {"base": base.probability.cpu(), "patched": patched.probability.cpu()}
    if base.value is None or patched.value is None:
        return found
    return found | {"base_value": base.value.cpu(), "patched_value": patched.value.cpu()}
