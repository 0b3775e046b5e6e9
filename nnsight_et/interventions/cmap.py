"""Cross-model activation patching (§6): a recipient's run with head activations of a donor model on the same prompt.

The two models are never in one session: the donor's few vectors are taken home and travel to the recipient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Question, Run
from nnsight_et.circuit import Circuit, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, captured, head_outputs, suffix_of
from nnsight_et.engine.readout import Readout
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.activation_patching import Donation, layers_of, with_donation
from nnsight_et.models.model import Model, Via

Inputs = dict[Via, dict[int, Tensor]]
"""Via -> layer -> queries [batch, head, d_head] at the position; keys, values [batch, kv head, c, d_head] before it."""


def donor_outputs(model: Model, run: Run, sets: Sequence[Circuit]) -> Donation:
    """The donor's head outputs that the sets name, on the CPU."""
    with model.session():
        donated = nnsight.save(_home(head_outputs(model, run, layers_of(sets))))
    return donated


def recipient_readouts(
    model: Model, question: Question, donated: Donation, sets: Sequence[Circuit], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, of the recipient when each set's heads have the donor's outputs: tensors [set, batch]."""
    here = {name: {layer: z.to(model.device) for layer, z in layers.items()} for name, layers in donated.items()}
    with model.session():
        outcome = nnsight.save(with_donation(model, question, here, sets, engine, chunks).numbers())
    return outcome


def donor_inputs(model: Model, run: Run, group: HeadGroup) -> Inputs:
    """The donor's queries of the group's layers at its position, and their keys and values before it, on the CPU."""
    with model.session():
        donated = nnsight.save(_home(_inputs(model, run, group)))
    return donated


def recipient_input_readouts(
    model: Model, question: Question, donated: Inputs, group: HeadGroup, sets: Sequence[tuple[Via, ...]], chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, when the group's heads have the donor's inputs named in each set: tensors [set, batch].

    Head outputs before the group's position are the recipient's own; the position and all later ones recompute.
    """
    with model.session():
        outcome = nnsight.save(_with_inputs(model, question, donated, group, sets, chunks).numbers())
    return outcome


def _inputs(model: Model, run: Run, group: HeadGroup) -> Inputs:
    at, layers = run.positions[group.at], sorted({head.layer for head in group.heads})
    row, queries = torch.arange(len(run.tokens), device=model.device), {}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in layers:
            queries[layer] = model.projection(layer, "query")[row, at]
        residual = model.layer(layers[-1]).output
        model.skip_layers(range(layers[-1] + 1, model.n_layers), residual)
        model.skip_unembedding(residual)
    capture = captured(model, run, suffix_of(run, at), [])
    keys = {layer: capture.cache[layer][0] for layer in layers}
    values = {layer: capture.cache[layer][1] for layer in layers}
    return {"query": queries, "key": keys, "value": values}


def _with_inputs(
    model: Model, question: Question, donated: Inputs, group: HeadGroup, sets: Sequence[tuple[Via, ...]], chunks: Chunks
) -> Readout:
    run, at = question.run, question.run.positions[group.at]
    start = min(head.layer for head in group.heads)
    assert bool((at == at[0]).all()), "a batch's positions stand at one place, so that all before them is in the cache"
    own = captured(model, run, suffix_of(run, at), [start])
    readouts = []
    for inputs in sets:
        capture, edits = own, []
        for via in inputs:
            if via == "query":
                edits = _query_edits(model, donated["query"], group, own.slot(at))
            else:
                capture = _with_donated_cache(model, capture, donated[via], group, via)
        readouts.append(suffix(model, capture, start, edits, question.answer, chunks))
    return Readout(
        torch.cat([one.probability for one in readouts]),
        torch.cat([one.logit for one in readouts]),
        torch.cat([one.predicted for one in readouts]),
    )


def _query_edits(model: Model, queries: dict[int, Tensor], group: HeadGroup, slot: Tensor) -> list[Edit]:
    edits = []
    for layer, values in queries.items():
        heads = torch.tensor([head.index for head in group.heads if head.layer == layer], device=model.device)
        edits.append(Edit(layer, "query", slot, heads, values.to(model.device)[None][:, :, heads]))
    return edits


def _with_donated_cache(
    model: Model, capture: Capture, donated: dict[int, Tensor], group: HeadGroup, via: Literal["key", "value"]
) -> Capture:
    """The capture with the donor's keys or values of the group's kv heads at all tokens before the position."""
    which, cache = ("key", "value").index(via), list(capture.cache)
    for layer, values in donated.items():
        heads = sorted({model.receiver(head.index, via) for head in group.heads if head.layer == layer})
        entry = list(cache[layer])
        entry[which] = entry[which].clone()
        entry[which][:, heads] = values.to(model.device)[:, heads]
        cache[layer] = (entry[0], entry[1])
    return replace(capture, cache=cache)


def _home(found: dict) -> dict:
    return {key: {layer: tensor.cpu() for layer, tensor in layers.items()} for key, layers in found.items()}
