"""The one-token pass: path patching's first run with every attention frozen, so only the sender's token changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nnsight_et.circuit import Head
from nnsight_et.engine.capture import TokenCapture
from nnsight_et.engine.paths import KvHeads
from nnsight_et.engine.readout import Asked, Readout, readout
from nnsight_et.models.model import Model, Via


@dataclass(frozen=True)
class Receivers:
    """Head inputs at the end of a path: per layer the heads, in the space of `via`, whose input is replaced."""

    via: Via
    heads: dict[int, Tensor]  # layer -> [k], ascending layers
    seen_by: dict[int, Tensor]  # layer -> the query heads [q] that alone see it; without the layer, all that share it

    @classmethod
    def of(cls, model: Model, heads: Sequence[Head], via: Via, kv_heads: KvHeads = "shared") -> Receivers:
        """The inputs of query heads `heads`; under GQA several of them can share one key or value."""
        layers: dict[int, set[int]] = {}
        queries: dict[int, set[int]] = {}
        for layer, index in sorted(heads):
            layers.setdefault(layer, set()).add(model.receiver(index, via))
            queries.setdefault(layer, set()).add(index)
        alone = queries if kv_heads == "expanded" and model.heads_of(via) < model.n_heads else {}
        found, seen_by = (
            {layer: torch.tensor(sorted(index), device=model.device) for layer, index in some.items()}
            for some in (layers, alone)
        )
        return cls(via, found, seen_by)


def to_receivers(
    model: Model, token: TokenCapture, layer: int, senders: Tensor, donated: Tensor, receivers: Receivers
) -> dict[int, Tensor]:
    """Receiver layer -> its inputs [sender, batch, k, d_head] when one of `senders` [sender] of `layer` donates.

    donated [batch, head, d_head] is the layer's z from the source run. Only receivers above `layer` are there.
    """
    ends = [above for above in receivers.heads if above > layer]
    size, values = (len(senders), len(token.tokens)), {}
    with model.trace(token.tokens.repeat(size[0], 1), token.position_ids.repeat(size[0], 1)):
        _enter(model, token, layer, size[0])
        for here in range(layer, ends[-1] + 1):
            if here in ends:
                inputs = model.projection_of_input(here, receivers.via)[:, 0]
                values[here] = inputs[:, receivers.heads[here]].unflatten(0, size)
            attention = _frozen_attention(model, token, here, layer, senders, donated)
            model.skip_attention(here, attention)
            if here == ends[-1]:
                model.skip_mlp(here, attention)
        model.skip_layers(range(ends[-1] + 1, model.n_layers), attention)
        model.skip_unembedding(attention)
    return values


def to_logits(
    model: Model, token: TokenCapture, layer: int, senders: Tensor, donated: Tensor, asked: Tensor | Asked
) -> Readout:
    """[sender, batch]: the logits' readout when one of `senders` of `layer` donates and every attention is frozen."""
    size = (len(senders), len(token.tokens))
    with model.trace(token.tokens.repeat(size[0], 1), token.position_ids.repeat(size[0], 1)):
        _enter(model, token, layer, size[0])
        for here in range(layer, model.n_layers):
            model.skip_attention(here, _frozen_attention(model, token, here, layer, senders, donated))
        outcome = readout(model.logits()[:, 0].unflatten(0, size), asked)
    return outcome


def _enter(model: Model, token: TokenCapture, layer: int, copies: int) -> None:
    """Inside a trace: start at `layer` with its clean residual."""
    model.skip_layers(range(layer), token.entering[layer].repeat(copies, 1, 1))


def _frozen_attention(
    model: Model, token: TokenCapture, here: int, layer: int, senders: Tensor, donated: Tensor
) -> Tensor:
    """[sender * batch, 1, d]: inside a trace, clean attention output, in the senders' layer with their donation."""
    if here > layer:
        return token.attention[here].repeat(len(senders), 1, 1)
    z = token.z[here].repeat(len(senders), 1, 1, 1)  # [sender, batch, head, d_head]
    one = torch.arange(len(senders), device=z.device)
    z[one, :, senders] = donated[:, senders].transpose(0, 1)
    return model.attention_of(here, z.flatten(0, 1)[:, None])
