"""Attention patterns (§4.1, §5.2): where heads look from a position. The model is loaded with eager attention.

Idea: a head's attention weights, softmax(q · k / sqrt(d)) over earlier tokens, show which tokens it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import PromptBatch
from nnsight_et.engine import reference
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


def attention_from(model: Model, run: PromptBatch, at: str, to: tuple[str, ...], engine: str) -> dict[str, Tensor]:
    """{"weights": [layer, head, to + 2, batch]}: how much each head at `at` attends to each named position.

    After the named positions come the first token, and all other tokens together: that axis sums to 1, or to
    less where part of the attention goes to no token (gpt-oss).
    """
    model.check_has("value", range(model.n_layers))  # the reference engine reads patterns off values
    with model.session():
        shown = engine != "reference" and _are_shown(model, run)
        read = _attention_from if shown else _reference_attention_from
        weights = nnsight.save(read(model, run, at, to))
    return check_numbers(model, {"weights": weights}, [run])


def whole_patterns(model: Model, run: PromptBatch, layers: Sequence[int]) -> dict[str, Tensor]:
    """By layer, as text, its attention weights [batch, head, seq, seq], of a model whose attention is eager."""
    with model.session():
        weights = nnsight.save(_whole_patterns(model, run, layers))
    return check_numbers(model, weights, [run])


def _whole_patterns(model: Model, run: PromptBatch, layers: Sequence[int]) -> dict[str, Tensor]:
    found = {}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in sorted(layers):
            found[str(layer)] = model.attention_weights(layer).float().cpu()
        model.stop_before_mlp(max(layers))
    return found


def _are_shown(model: Model, run: PromptBatch) -> bool:
    """Whether the model gives its attention weights: not where a server runs it with another implementation."""
    with model.trace(run.tokens[:1], run.position_ids[:1]):
        shown = model.attention_weights(0) is not None
        model.stop_before_mlp(0)
    return shown


def _attention_from(model: Model, run: PromptBatch, at: str, to: tuple[str, ...]) -> Tensor:
    row = torch.arange(len(run.tokens), device=model.device)
    columns = [run.positions[name] for name in to] + [run.mask.argmax(-1)]
    layers = []
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(model.n_layers):
            weights = model.attention_weights(layer)[row, :, run.positions[at]]  # [batch, head, seq]
            named = torch.stack([weights[row, :, column] for column in columns])  # [to + 1, batch, head]
            rest = weights.sum(-1) - named.sum(0)
            layers.append(torch.cat([named, rest[None]]).permute(2, 0, 1))  # [head, to + 2, batch]
        model.stop_before_mlp(model.n_layers - 1)
    return torch.stack(layers).cpu()


def _reference_attention_from(model: Model, run: PromptBatch, at: str, to: tuple[str, ...]) -> Tensor:
    """The same without the model's own word for it: with values 1 at some tokens and 0 elsewhere, z is the weight."""
    row = torch.arange(len(run.tokens), device=model.device)
    columns = torch.arange(run.tokens.shape[1], device=model.device)
    own, weights = reference.head_outputs(model, run), []
    places = [run.positions[name] for name in to] + [run.mask.argmax(-1)]
    named = [columns == place[:, None] for place in places]
    for tokens in (*named, run.mask.bool() & ~torch.stack(named).any(0)):
        layers = []
        with model.trace(run.tokens, run.position_ids, run.mask):
            for layer in range(model.n_layers):
                values = model.projection(layer, "value")
                ones = tokens[:, :, None, None].to(values.dtype).expand(values.shape)
                model.write_projection(layer, "value", ones)
                layers.append(model.z(layer)[row, run.positions[at], :, 0])  # [batch, head]
                model.write_z(layer, own[layer])
        weights.append(torch.stack(layers))
    return torch.stack(weights).permute(1, 3, 0, 2).cpu()
