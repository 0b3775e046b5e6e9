"""Path patching (§4.1): what the answer's probability loses when one path, from a head or MLP to later ones, breaks.

Idea: change one component, and let the change through along one path only.

    run 1: all heads from the position on keep their base outputs, but the sender's is the source's
    run 2: the receivers' query, key or value (MLPs: input) is that of run 1; everything after recomputes
    score = mean of (p_patched - p) / p

Into the logits run 1 is all there is. Run 1 changes one token, run 2 only what lies above the receivers.
"""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Component
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import capture_run, head_outputs, mlp_outputs, suffix_of
from nnsight_et.engine.one_token import Receivers
from nnsight_et.engine.paths import Path
from nnsight_et.engine.readout import Readout, ReadoutSpec, joined_readouts, readout, stacked_readouts
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def path_probabilities(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """{"base": [batch], "patched": [sender, batch]}: the answer's probability without and with each path patched.

    If the pair's metric is not the paper's, its values too, "base_value" and "patched_value". No logits leave.

    Senders are in ascending order, and can all reach the end of the path: Path.reaching lists those that can.
    """
    assert list(senders) == sorted(senders), "senders in the order of a forward pass"
    with model.session():
        effects = _reference_effects if engine == "reference" else _effects
        outcome = nnsight.save(effects(model, pair, path, senders, chunks))
    return check_numbers(model, outcome, [pair])


def _effects(model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks) -> dict[str, Tensor]:
    at = pair.base.positions[path.at]
    receivers = Receivers.of(model, path.receivers, path.via, path.kv_heads) if path.via else None
    layers = sorted({sender.layer for sender in senders})
    starts = path.starts(layers, model.parallel)
    capture = capture_run(model, pair.base, suffix_of(pair.base, at), starts.values(), at)
    assert capture.token is not None
    asked = ReadoutSpec.of(pair, capture.logits)
    step = chunks.variants(len(pair.answer), capture.live.shape[1])
    donated = _donated_outputs(model, pair.source, path, layers)
    parts: list[Readout] = []
    for some in path.passes(senders, starts, step):
        model.report_layer(some[0].layer)
        here = one_token.Senders.of(model, some, donated)
        if receivers is None:
            parts.append(one_token.to_logits(model, capture.token, here, asked))
            continue
        start = starts[some[0].layer]
        inputs = one_token.to_receivers(model, capture.token, here, receivers.above(start))
        slot, site = capture.live_index(at), "mlp" if receivers.via == "input" else receivers.via
        edits = [
            Edit(end, site, slot, receivers.heads[end], values, visible_to_heads=receivers.seen_by.get(end))
            for end, values in inputs.items()
        ]
        parts.append(suffix(model, capture, start, edits, asked, chunks))
    return _numbers(readout(capture.logits, asked), joined_readouts(parts))


def _donated_outputs(model: Model, source: PromptBatch, path: Path, layers: Sequence[int]) -> dict[int, Tensor]:
    """Layer -> what its heads [batch, head, d_head], or its MLP [batch, d], give in the source run."""
    if path.senders == "mlps":
        return mlp_outputs(model, source, path.at, layers)
    return head_outputs(model, source, {path.at: layers})[path.at]


def _reference_effects(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks
) -> dict[str, Tensor]:
    base, patched = reference.path_effects(model, pair, path, senders)
    return _numbers(base, stacked_readouts(patched))


def _numbers(base: Readout, patched: Readout) -> dict[str, Tensor]:
    found = {"base": base.probability.cpu(), "patched": patched.probability.cpu()}
    if base.value is None or patched.value is None:
        return found
    return found | {"base_value": base.value.cpu(), "patched_value": patched.value.cpu()}
