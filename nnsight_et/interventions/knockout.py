"""Attention knockout (App. A): the answer when, from some layer up, one position may not attend to another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Question
from nnsight_et.engine import reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import captured, suffix_of
from nnsight_et.engine.readout import Readout, joined, readout, stacked
from nnsight_et.engine.suffix import suffix
from nnsight_et.models.model import Model


def knockout_readouts(
    model: Model, question: Question, blind: Tensor, to: Tensor, engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """Readouts, by name, [first layer, batch]: all heads of layers >= first layer at `blind` may not attend to `to`.

    blind and to are positions [batch], to before blind. The last entry, past the last layer, blocks nothing.
    """
    with model.session():
        blocked = _reference_blocked if engine == "reference" else _blocked
        outcome = nnsight.save(blocked(model, question, blind, to, chunks).numbers())
    return outcome


def _blocked(model: Model, question: Question, blind: Tensor, to: Tensor, chunks: Chunks) -> Readout:
    every = range(model.n_layers)
    whole = captured(model, question.run, suffix_of(question.run, blind), every)
    row = torch.arange(len(blind), device=model.device)
    assert bool((to < whole.visible.shape[-1]).all()), "blind positions of a batch stand at one place"
    visible = whole.visible.clone()
    visible[row, whole.slot(blind), to] = False
    blocked = replace(whole, visible=visible)
    readouts = [suffix(model, blocked, first, [], question.answer, chunks) for first in every]
    plain = readout(whole.logits, question.answer)
    return joined([*readouts, stacked([plain])])


def _reference_blocked(model: Model, question: Question, blind: Tensor, to: Tensor, chunks: Chunks) -> Readout:
    every = range(model.n_layers + 1)
    return stacked([reference.blocked(model, question.run, first, blind, to, question.answer) for first in every])


def random_targets(question: Question, blind: str, names: Sequence[str], seeds: Sequence[int | str]) -> Tensor:
    """[batch]: an earlier token of each prompt, drawn with its own seed: not the first, nor at a named position."""
    run = question.run
    allowed = run.mask.bool().cpu() & (torch.arange(run.tokens.shape[1]) < run.positions[blind].cpu()[:, None])
    row = torch.arange(len(allowed))
    allowed[row, run.mask.cpu().argmax(-1)] = False
    for name in names:
        allowed[row, run.positions[name].cpu()] = False
    drawn = [
        random.Random(seed).choice(some.nonzero()[:, 0].tolist()) for seed, some in zip(seeds, allowed, strict=True)
    ]
    return torch.tensor(drawn, device=run.tokens.device)
