"""Path patching (§4.1): how much the answer's probability falls when one path from a head or MLP is broken.

Idea: change one component, and let the change act along one path only.

    run 1: from the position on all heads keep their base outputs; only the sender takes the source's
    run 2: receivers take their query, key or value (MLPs: input) from run 1; everything after is recomputed
    score = mean of (p_patched - p) / p

A path into the logits needs only run 1. Run 1 changes one token; run 2 changes only what lies above the receivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import nnsight
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Component
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, TokenCapture, capture_run, component_outputs, suffix_of
from nnsight_et.engine.one_token import Receivers
from nnsight_et.engine.paths import Kind, Path
from nnsight_et.engine.readout import Asked, Readout, ReadoutSpec, joined_readouts, readout, stacked_readouts
from nnsight_et.engine.shared_runs import both_runs
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def path_probabilities(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """{"base": [batch], "patched": [sender, batch]}: the answer's probability without and with each path patched.

    If the pair's metric is not the paper's, its values too, "base_value" and "patched_value"; of the logit difference
    these alone, and no "patched", where the model reads a few words without the others. No logits leave.

    Senders are in ascending order, and can all reach the end of the path: Path.reaching lists those that can.
    """
    assert list(senders) == sorted(senders), "senders in the order of a forward pass"
    check_ends(model, [path])
    with model.session():
        effects = _reference_effects if engine == "reference" else _effects
        outcome = nnsight.save(effects(model, pair.by_row(), path, senders, chunks))
    return check_numbers(model, outcome, [pair])


def edge_probabilities(
    model: Model, pair: Pair, edges: Sequence[tuple[Path, Component]], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """The same of many paths, each with one sender, {"base": [batch], "patched": [edge, batch]}: both runs run once.

    Edges of one path stand together, their senders in ascending order.
    """
    check_ends(model, [path for path, _ in edges])
    with model.session():
        together = _reference_edge_effects if engine == "reference" else _edge_effects
        outcome = nnsight.save(together(model, pair.by_row(), by_path(edges), chunks))
    return check_numbers(model, outcome, [pair])


def check_ends(model: Model, paths: Iterable[Path]) -> None:
    """Raise UnsupportedModel if a receiver does not have the input that a path ends in."""
    for path in paths:
        model.check_has(path.via, [receiver.layer for receiver in path.receivers])


Senders = Sequence[tuple[Path, Sequence[Component]]]


def by_path(edges: Sequence[tuple[Path, Component]]) -> Senders:
    """The senders of each path; edges of one path stand together."""
    return [(path, [sender for _, sender in some]) for path, some in groupby(edges, lambda edge: edge[0])]


def _effects(model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks) -> dict[str, Tensor]:
    layers = sorted({sender.layer for sender in senders})
    starts = path.starts(layers, model.parallel)
    kept = {*starts.values(), *(layers if pair.base.continuation and path.via is None else ())}
    capture, donated, base = both_runs(model, pair, path, starts=kept, donors=layers)
    (token,), asked = capture.tokens, ReadoutSpec.of(pair, capture.logits)
    parts = path_readouts(
        model, capture, path, senders, token=token, starts=starts, donated=donated, asked=asked, chunks=chunks
    )
    return numbers_of(base, joined_readouts(list(parts)))


def _edge_effects(model: Model, pair: Pair, paths: Senders, chunks: Chunks) -> dict[str, Tensor]:
    run = pair.base
    names = sorted({path.at for path, _ in paths}, key=lambda name: (int(run.positions[name].min()), name))
    layers = [sorted({sender.layer for sender in senders}) for _, senders in paths]
    starts = [path.starts(some, model.parallel) for (path, _), some in zip(paths, layers, strict=True)]
    every = {start for some in starts for start in some.values()}
    for (path, _), some in zip(paths, layers, strict=True):
        if run.continuation and path.via is None:  # what follows the prompt reads what the senders change
            every.update(some)
    whole = capture_run(
        model, run, suffix_of(run, run.positions[names[0]]), sorted(every), [run.positions[name] for name in names]
    )
    tokens = dict(zip(names, whole.tokens, strict=True))
    asked = ReadoutSpec.of(pair, whole.logits)
    wanted: dict[tuple[str, Kind], set[int]] = {}
    for (path, _), some in zip(paths, layers, strict=True):
        wanted.setdefault((path.at, path.senders), set()).update(some)
    donated = component_outputs(model, pair.source, wanted)
    parts: list[Readout] = []
    for (path, senders), begins in zip(paths, starts, strict=True):
        capture = whole.with_live(suffix_of(run, run.positions[path.at]))
        parts += path_readouts(
            model,
            capture,
            path,
            senders,
            token=tokens[path.at],
            starts=begins,
            donated=donated[path.at, path.senders],
            asked=asked,
            chunks=chunks,
        )
    return numbers_of(readout(whole.logits, asked), joined_readouts(parts))


def path_readouts(
    model: Model,
    capture: Capture,
    path: Path,
    senders: Sequence[Component],
    *,
    token: TokenCapture,
    starts: Mapping[int, int],
    donated: Mapping[int, Tensor],
    asked: Asked,
    chunks: Chunks,
) -> Iterator[Readout]:
    """[sender, batch], in several parts: the readouts when each of a path's senders donates."""
    receivers = Receivers.of(model, path.receivers, path.via, path.kv_heads) if path.via else None
    step = chunks.variants(*capture.live.shape)
    for some in path.passes(senders, starts, step):
        model.report_layer(some[0].layer)
        here = one_token.Senders.of(model, some, donated)
        if receivers is None and capture.run.continuation:
            frozen = one_token.frozen_edits(model, token, here, capture)
            yield suffix(model, capture, some[0].layer, frozen, asked, chunks)
            continue
        if receivers is None:
            yield one_token.to_logits(model, token, here, asked)
            continue
        start = starts[some[0].layer]
        inputs = one_token.to_receivers(model, token, here, receivers.above(start))
        slot, site = (
            capture.live_index(capture.run.positions[path.at]),
            "mlp" if receivers.via == "input" else receivers.via,
        )
        edits = [
            Edit(end, site, slot, receivers.heads[end], values, visible_to_heads=receivers.seen_by.get(end))
            for end, values in inputs.items()
        ]
        yield suffix(model, capture, start, edits, asked, chunks)


def _reference_edge_effects(model: Model, pair: Pair, paths: Senders, chunks: Chunks) -> dict[str, Tensor]:
    found = [reference.path_effects(model, pair, path, senders) for path, senders in paths]
    return numbers_of(found[0][0], stacked_readouts([one for _, patched in found for one in patched]))


def _reference_effects(
    model: Model, pair: Pair, path: Path, senders: Sequence[Component], chunks: Chunks
) -> dict[str, Tensor]:
    base, patched = reference.path_effects(model, pair, path, senders)
    return numbers_of(base, stacked_readouts(patched))


def numbers_of(base: Readout, patched: Readout) -> dict[str, Tensor]:
    """What leaves of a base run's readout [batch] and of its variants' [variant, batch]: see path_probabilities."""
    found = {"base": base.probability.cpu()} | ({} if patched.alone else {"patched": patched.probability.cpu()})
    if base.value is None or patched.value is None:
        return found
    return found | {"base_value": base.value.cpu(), "patched_value": patched.value.cpu()}
