"""Attention knockout (App. A): the answer when one position may not attend to another, from some layer up.

Idea: once the answer is right again, the position already has what it would have read there.

    attention[blind -> to] = 0 in all heads of layers >= L, for every L
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Answers, Question
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import capture_run, suffix_of
from nnsight_et.engine.readout import Readout, joined_readouts, readout, stacked_readouts
from nnsight_et.engine.suffix import suffix
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model

Edge = tuple[Tensor, Tensor]
"""The position [batch] that may not attend, and the one [batch] it may not attend to."""


def knockout_readouts(
    model: Model, question: Question, edge: Edge, firsts: Sequence[int], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, [first layer, batch]: all heads of layers >= first layer at one position miss another.

    The edge is (blind, to), positions [batch], to before blind. A first layer past the last one blocks nothing.
    """
    _check_blockable(model, firsts)
    blind, to = edge
    if isinstance(question.answer, Answers):
        blind, to = blind[question.answer.example], to[question.answer.example]
    with model.session():
        # a pass that begins below `first`, for the keys it stores, would block there too
        whole = engine == "reference" or model.storing is not None
        blocked = _reference_blocked_readout if whole else _blocked_readout
        outcome = nnsight.save(blocked(model, question.by_row(), (blind, to), firsts, chunks).numbers())
    return check_numbers(model, outcome, [question.run])


def _check_blockable(model: Model, firsts: Sequence[int]) -> None:
    """Raise UnsupportedModel if linear attention, of which no single token can be blocked, carries the edge as well."""
    if model.recurrent and min(firsts, default=model.n_layers) < model.n_layers:
        found = f"{model.name}: layers {', '.join(map(str, model.recurrent))} are linear attention"
        raise UnsupportedModel(f"{found}, where no token can be kept from seeing one other; accepted: attention alone")


def _blocked_readout(model: Model, question: Question, edge: Edge, firsts: Sequence[int], chunks: Chunks) -> Readout:
    blind, to = edge
    below = [first for first in firsts if first < model.n_layers]
    whole = capture_run(model, question.run, suffix_of(question.run, blind), below)
    row = torch.arange(len(blind), device=model.device)
    assert bool((to < whole.visible.shape[-1]).all()), "blind positions of a batch stand at one place"
    visible = whole.visible.clone()
    visible[row, whole.live_index(blind), to] = False
    blocked = replace(whole, visible=visible)
    plain = stacked_readouts([readout(whole.logits, question.answer)])
    return joined_readouts(
        [suffix(model, blocked, first, [], question.answer, chunks) if first in below else plain for first in firsts]
    )


def _reference_blocked_readout(
    model: Model, question: Question, edge: Edge, firsts: Sequence[int], chunks: Chunks
) -> Readout:
    return stacked_readouts(
        [reference.run_with_blocked_attention(model, question.run, first, *edge, question.answer) for first in firsts]
    )


def random_targets(
    question: Question, blind: str, names: Sequence[str], labels: Sequence[int], seeds: Sequence[int | str]
) -> Tensor:
    """[batch]: an earlier token of each prompt, drawn with its own seed.

    Not the first, nor at a named position, nor one of the tokens `labels` wherever it stands.
    """
    run = question.run
    allowed = run.mask.bool().cpu() & (torch.arange(run.tokens.shape[1]) < run.positions[blind].cpu()[:, None])
    row = torch.arange(len(allowed))
    allowed[row, run.mask.cpu().argmax(-1)] = False
    allowed &= ~torch.isin(run.tokens.cpu(), torch.tensor(labels, dtype=torch.long))
    for name in names:
        allowed[row, run.positions[name].cpu()] = False
    drawn = [
        random.Random(seed).choice(some.nonzero()[:, 0].tolist()) for seed, some in zip(seeds, allowed, strict=True)
    ]
    return torch.tensor(drawn, device=run.tokens.device)
