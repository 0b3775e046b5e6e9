"""Cross-model activation patching (§6): a recipient's run with a donor model's head activations on the same prompt.

Idea: if the donor does a step better, its outputs at that step make the recipient better too.

    z_recipient[head, position] <- z_donor[head, position]

The two models never share a session: the donor's few vectors are sent back, then sent to the recipient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, PromptBatch, Question
from nnsight_et.core.circuit import Circuit, HeadGroup, Via
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, cache_with, capture_run, head_outputs, suffix_of
from nnsight_et.engine.readout import Readout, joined_readouts, stacked_readouts
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.interventions.activation_patching import Donation, with_donation
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model

Inputs = dict[Via, dict[int, Tensor]]
"""Via -> layer -> of the group's heads, before RoPE: queries [batch, k, d_head] at the position; keys and values
[batch, c, k, d_head] of all c tokens before it."""
Donated = dict[str, dict[int, tuple[list[int], Tensor]]]
"""Position -> layer -> some heads [k] and their outputs [batch, k, d_head] there."""
CACHED: tuple[Literal["key", "value"], ...] = ("key", "value")
VIAS: tuple[Via, ...] = ("query", *CACHED)


def donor_outputs(model: Model, run: PromptBatch, sets: Sequence[Circuit]) -> dict[str, Tensor]:
    """By "position layer": the donor's outputs [batch, k, d_head] of the heads that the sets name there, on the CPU."""
    heads = named_heads(sets)
    with model.session():
        z = head_outputs(model, run, heads)
        found = {(at, layer): z[at][layer][:, some] for at, layers in heads.items() for layer, some in layers.items()}
        donated = nnsight.save(_home(found))
    return check_numbers(model, donated, [run])


def named_heads(sets: Sequence[Circuit]) -> dict[str, dict[int, list[int]]]:
    """Position -> layer -> the heads, in order, that any of the sets has there."""
    named: dict[str, dict[int, set[int]]] = {}
    for group in (group for heads in sets for group in heads.groups):
        for head in group.heads:
            named.setdefault(group.at, {}).setdefault(head.layer, set()).add(head.index)
    return {at: {layer: sorted(named[at][layer]) for layer in sorted(named[at])} for at in named}


def by_place(found: Mapping[str, Tensor]) -> dict[Any, dict[int, Tensor]]:
    """Place -> layer -> tensor, from tensors by "place layer": what a donor gives, as a recipient takes it."""
    places: dict[Any, dict[int, Tensor]] = {}
    for name, tensor in found.items():
        place, layer = name.split()
        places.setdefault(place, {})[int(layer)] = tensor
    return places


def with_heads(found: Mapping[str, Tensor], sets: Sequence[Circuit]) -> Donated:
    """The outputs that a donor gives for these sets, each with the heads it is of."""
    outputs = by_place(found)
    return {
        at: {layer: (heads, outputs[at][layer]) for layer, heads in layers.items()}
        for at, layers in named_heads(sets).items()
    }


def recipient_readouts(
    model: Model,
    question: Question,
    donated: Donated,
    sets: Sequence[Circuit],
    engine: str,
    chunks: Chunks,
) -> dict[str, Tensor]:
    """Readouts, by name, of the recipient when each set's heads have the donor's outputs: tensors [set, batch]."""
    here: Donation = {
        at: {layer: _by_row(_of_all(model, *outputs), question) for layer, outputs in layers.items()}
        for at, layers in donated.items()
    }
    with model.session():
        outcome = nnsight.save(with_donation(model, question.by_row(), here, sets, engine, chunks).numbers())
    return check_numbers(model, outcome, [question.run])


def _by_row(given: Tensor, question: Question) -> Tensor:
    """[row, ...]: what is given of each prompt [batch, ...], for each of its answer's texts."""
    answer = question.answer
    return given[answer.example.to(given.device)] if isinstance(answer, Answers) else given


def _of_all(model: Model, heads: list[int], outputs: Tensor) -> Tensor:
    """[batch, head, d_head]: outputs [batch, k, d_head] of some heads; of the others, which nobody reads, zeros."""
    whole = torch.zeros(len(outputs), model.n_heads, model.d_head, dtype=model.dtype, device=model.device)
    whole[:, heads] = outputs.to(model.device, model.dtype)  # a self-check in fp32 is given what a bfloat16 donor gave
    return whole


def donor_inputs(model: Model, run: PromptBatch, group: HeadGroup) -> dict[str, Tensor]:
    """By "via layer": the donor's queries of the group's heads at its position, their keys and values before it."""
    for via in VIAS:
        model.check_has(via, [head.layer for head in group.heads])
    with model.session():
        inputs = _inputs(model, run, group)
        found = {(via, layer): values for via, layers in inputs.items() for layer, values in layers.items()}
        donated = nnsight.save(_home(found))
    return check_numbers(model, donated, [run])


def recipient_input_readouts(
    model: Model,
    question: Question,
    given: tuple[HeadGroup, Inputs],
    sets: Sequence[tuple[Via, ...]],
    engine: str,
    chunks: Chunks,
) -> dict[str, Tensor]:
    """Readouts, by name, when the group's heads have the donor's inputs named in each set: tensors [set, batch].

    Head outputs before the group's position are the recipient's own; the position and all later ones recompute.
    """
    group, inputs = given
    for one in VIAS:
        if any(one in some for some in sets):
            model.check_has(one, [head.layer for head in group.heads])
    by_row: Inputs = {
        via: {layer: _by_row(values, question) for layer, values in layers.items()} for via, layers in inputs.items()
    }
    with model.session():
        patched = _reference_with_inputs if engine == "reference" or model.recurrent else _with_inputs
        outcome = nnsight.save(patched(model, question.by_row(), (group, by_row), sets, chunks).numbers())
    return check_numbers(model, outcome, [question.run])


def _inputs(model: Model, run: PromptBatch, group: HeadGroup) -> Inputs:
    at, layers = run.positions[group.at], sorted({head.layer for head in group.heads})
    assert bool((at == at[0]).all()), "a batch's positions stand at one place"
    row, before = torch.arange(len(run.tokens), device=model.device), int(at[0])
    found: Inputs = {via: {} for via in VIAS}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in layers:
            for via in VIAS:
                heads = model.projection(layer, via)[:, :, _heads_in(model, group, layer, via)]
                found[via][layer] = heads[row, at] if via == "query" else heads[:, :before]
        model.stop_before_mlp(layers[-1])
    return found


def _with_inputs(
    model: Model, question: Question, given: tuple[HeadGroup, Inputs], sets: Sequence[tuple[Via, ...]], chunks: Chunks
) -> Readout:
    group, donated = given
    run, at = question.run, question.run.positions[group.at]
    start = min(head.layer for head in group.heads)
    assert bool((at == at[0]).all()), "a batch's positions stand at one place, so that all before them is in the cache"
    own = capture_run(model, run, suffix_of(run, at), [start])
    places = {
        layer: (_heads_in(model, group, layer, "key"), _heads_in(model, group, layer, "value"))
        for layer in donated["key"]
    }
    cache = cache_with(model, run, places, donated["key"], donated["value"])
    readouts = []
    for inputs in sets:
        capture, edits = own, []
        for via in inputs:
            if via == "query":
                edits = _query_edits(model, donated["query"], group, own.live_index(at))
            else:
                capture = _with_cache(model, capture, cache, group, via)
        readouts.append(suffix(model, capture, start, edits, question.answer, chunks))
    return joined_readouts(readouts)


def _reference_with_inputs(
    model: Model, question: Question, given: tuple[HeadGroup, Inputs], sets: Sequence[tuple[Via, ...]], chunks: Chunks
) -> Readout:
    return stacked_readouts([_reference_run(model, question, given, inputs) for inputs in sets])


def _reference_run(
    model: Model, question: Question, given: tuple[HeadGroup, Inputs], inputs: tuple[Via, ...]
) -> Readout:
    """[batch]: a whole run with these inputs replaced, whose head outputs before the position stay what they were."""
    group, donated = given
    run, at = question.run, question.run.positions[group.at]
    row, columns = torch.arange(len(at), device=model.device), torch.arange(run.tokens.shape[1], device=model.device)
    own, before = reference.head_outputs(model, run), (columns < at[:, None])[:, :, None, None]
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(model.n_layers):
            for via in VIAS:
                if via not in inputs or layer not in donated[via]:
                    continue
                current = model.projection(layer, via).clone()
                heads, values = _heads_in(model, group, layer, via), donated[via][layer].to(model.device, current.dtype)
                if via == "query":
                    current[row[:, None], at[:, None], heads] = values
                else:
                    current[:, : values.shape[1], heads] = values
                model.write_projection(layer, via, current)
            model.write_z(layer, torch.where(before, own[layer], model.z(layer)))
        outcome = reference.reference_readout(reference.logits_read(model, run), question.answer)
    return outcome


def _query_edits(model: Model, queries: dict[int, Tensor], group: HeadGroup, slot: Tensor) -> list[Edit]:
    edits = []
    for layer, values in queries.items():
        heads = _heads_in(model, group, layer, "query")
        edits.append(Edit(layer, "query", slot, heads, values.to(model.device)[None]))
    return edits


def _with_cache(
    model: Model, capture: Capture, donated: list[tuple[Tensor, Tensor]], group: HeadGroup, via: Literal["key", "value"]
) -> Capture:
    """The capture with the donor's keys or values of the group's heads; all live tokens write their own over them."""
    which, cache = CACHED.index(via), list(capture.cache)
    for layer in {head.layer for head in group.heads}:
        entry = list(cache[layer])
        heads = _heads_in(model, group, layer, via).to(entry[which].device)
        copies = entry[which].shape[1] // model.n_kv_heads  # Falcon keeps one of each key for every query head
        heads = (heads[:, None] * copies + torch.arange(copies, device=heads.device)).flatten()
        entry[which] = entry[which].clone()
        entry[which][:, heads] = donated[layer][which][:, heads]
        cache[layer] = (entry[0], entry[1])
    return replace(capture, cache=cache)


def _heads_in(model: Model, group: HeadGroup, layer: int, via: Via) -> Tensor:
    """[k]: the group's heads of `layer` in the space of `via`, each once."""
    found = {model.receiver(head.index, via) for head in group.heads if head.layer == layer}
    return torch.tensor(sorted(found), device=model.device)


def _home(found: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    return {f"{place} {layer}": tensor.cpu() for (place, layer), tensor in found.items()}
