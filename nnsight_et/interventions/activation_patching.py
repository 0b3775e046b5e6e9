"""Activation patching (§5.2): the model's answer when some heads take their outputs from another run.

Idea: if heads carry a variable, their outputs from a source prompt bring the source's value with them.

    z[head, position] <- z_source[head, position];   everything after it is recomputed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Pair, PromptBatch, Question
from nnsight_et.core.circuit import Circuit
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture, capture_run, head_outputs, suffix_of
from nnsight_et.engine.readout import Readout, joined_readouts, plain, readout, stacked_readouts
from nnsight_et.engine.suffix import Edit, suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model

Donation = dict[str, dict[int, Tensor]]
"""Position -> layer -> z [batch, head, d_head] there, of the run that donates."""


def patched_readouts(
    model: Model, pair: Pair, sets: Sequence[Circuit], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, of the base run when each set's heads take the source's outputs: tensors [set, batch].

    Each run has its own positions; nothing is frozen. An empty set changes nothing.
    """
    source = Question(pair.source, pair.answer)
    return patched_readouts_by_source(model, pair.base, [source], [(0, heads) for heads in sets], engine, chunks)


def patched_readouts_by_source(
    model: Model,
    base: PromptBatch,
    sources: Sequence[Question],
    sets: Sequence[tuple[int, Circuit]],
    engine: str,
    chunks: Chunks,
) -> dict[str, Tensor]:
    """The same of several source runs, each with its answers, and one base run: tensors [set, batch].

    Sets are in the order of the sources that their heads take outputs from; each is given with its source's number.
    """
    with model.session():
        outcome = nnsight.save(_from_each(model, base, sources, sets, engine, chunks).numbers())
    return check_numbers(model, outcome, [base, *(source.run for source in sources)])


def _from_each(
    model: Model,
    base: PromptBatch,
    sources: Sequence[Question],
    sets: Sequence[tuple[int, Circuit]],
    engine: str,
    chunks: Chunks,
) -> Readout:
    of_each = [
        (sources[number], [heads for _, heads in some]) for number, some in groupby(sets, key=lambda one: one[0])
    ]
    shared = engine != "reference" and not any(isinstance(source.answer, Answers) for source in sources)
    whole, parts = _capture_run(model, base, [heads for _, heads in of_each]) if shared else None, []
    for source, some in of_each:
        question, run = Question(base, source.answer).by_row(), source.run
        if isinstance(source.answer, Answers):
            run = run.rows(source.answer.example)
        donated = head_outputs(model, run, layers_of(some))
        if whole is None:
            parts.append(with_donation(model, question, donated, some, engine, chunks))
        else:
            parts.append(_recompute_sets(model, whole, source.answer, donated, some, chunks))
    return joined_readouts(parts)


def layers_of(sets: Sequence[Circuit]) -> dict[str, set[int]]:
    """Position -> the layers in which any of the sets has a head there."""
    layers: dict[str, set[int]] = {}
    for group in (group for heads in sets for group in heads.groups if group.heads):
        layers.setdefault(group.at, set()).update(head.layer for head in group.heads)
    return layers


def with_donation(
    model: Model, question: Question, donated: Donation, sets: Sequence[Circuit], engine: str, chunks: Chunks
) -> Readout:
    """[set, batch]: the readout of the run when each set's heads have the donated outputs. Opens traces."""
    if engine == "reference":
        return stacked_readouts([_reference_with(model, question, donated, heads) for heads in sets])
    if not donated:
        return stacked_readouts([plain(model, question.run, question.answer)] * len(sets))
    whole = _capture_run(model, question.run, [sets])
    return _recompute_sets(model, whole, question.answer, donated, sets, chunks)


def _capture_run(model: Model, run: PromptBatch, parts: Sequence[Sequence[Circuit]]) -> Capture:
    """The run, with what recomputing any of the sets of any of the parts needs; without heads, its last token's."""
    names = [name for sets in parts for name in layers_of(sets)] or ["last"]
    first = torch.stack([run.positions[name] for name in names]).min(0).values
    return capture_run(
        model, run, suffix_of(run, first), [start for sets in parts for start, _, _ in _alike(run, sets)]
    )


def _recompute_sets(
    model: Model, whole: Capture, answer: Tensor | Answers, donated: Donation, sets: Sequence[Circuit], chunks: Chunks
) -> Readout:
    """[set, batch]: the readout of a captured run when each set's heads have the donated outputs. Opens traces."""
    run = whole.run
    parts: list[Readout] = [stacked_readouts([readout(whole.logits, answer)])] * len(sets)
    for start, live, alike in _alike(run, sets):
        capture, edits, some = whole.with_live(live), [], [sets[i] for i in alike]
        for name, layers in layers_of(some).items():
            slot, heads = capture.live_index(run.positions[name]), torch.arange(model.n_heads, device=model.device)
            for layer in layers:
                values = donated[name][layer][None]
                edits.append(Edit(layer, "z", slot, heads, values, ~_has_head(model, some, name, layer)))
        found = suffix(model, capture, start, edits, answer, chunks)
        for i, one in zip(alike, found.split(), strict=True):
            parts[i] = one
    return joined_readouts(parts)


def _alike(run: PromptBatch, sets: Sequence[Circuit]) -> Iterator[tuple[int, Tensor, list[int]]]:
    """The sets that have heads, by where recomputing begins: (lowest layer, live tokens [batch, m], their indices)."""
    parts: dict[int, list[int]] = {}
    for i, heads in enumerate(sets):
        if heads.size:
            first = min(int(run.positions[group.at].min()) for group in heads.groups if group.heads)
            parts.setdefault(first, []).append(i)
    for first, alike in parts.items():
        start = min(head.layer for i in alike for group in sets[i].groups for head in group.heads)
        yield start, suffix_of(run, torch.tensor([first], device=run.tokens.device)), alike


def _has_head(model: Model, sets: Sequence[Circuit], name: str, layer: int) -> Tensor:
    """[set, head]: whether each set has the head of `layer` at the position called `name`."""
    taken = [[(layer, index) in heads.at(name) for index in range(model.n_heads)] for heads in sets]
    return torch.tensor(taken, device=model.device)


def _reference_with(model: Model, question: Question, donated: Donation, heads: Circuit) -> Readout:
    run = question.run
    row = torch.arange(len(run.tokens), device=model.device)
    replacements = {}
    for layer in range(model.n_layers):
        values = torch.zeros(*run.tokens.shape, model.n_heads, model.d_head, dtype=model.dtype, device=model.device)
        where = torch.zeros(values.shape[:-1], dtype=torch.bool, device=model.device)
        for name in heads.positions:
            for index in [head.index for head in heads.at(name) if head.layer == layer]:
                values[row, run.positions[name], index] = donated[name][layer][:, index]
                where[row, run.positions[name], index] = True
        replacements[layer] = reference.Replacement(values, where)
    return reference.run_with_replacements(model, run, replacements, question.answer)
