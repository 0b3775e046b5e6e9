"""The one-token pass: path patching's first run with every attention frozen, so only the sender's token changes.

Senders ride side by side, a variant each: some heads of one layer, or MLPs, each from its own layer on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnsight_et.core.circuit import Component, Head, Mlp
from nnsight_et.engine.capture import Capture, TokenCapture
from nnsight_et.engine.paths import End, KvHeads
from nnsight_et.engine.readout import Asked, Readout, read_variants
from nnsight_et.engine.suffix import Edit
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Receivers:
    """Inputs at the end of a path: per layer the heads, in the space of `via`, whose input is replaced; of MLPs 0."""

    via: End
    heads: dict[int, Tensor]  # layer -> [k], ascending layers
    seen_by: dict[int, Tensor]  # layer -> the query heads [q] that alone see it; without the layer, all that share it

    def above(self, start: int) -> Receivers:
        """Those in layers from `start` up."""
        return replace(self, heads={layer: heads for layer, heads in self.heads.items() if layer >= start})

    @classmethod
    def of(cls, model: Model, receivers: Sequence[Component], via: End, kv_heads: KvHeads = "shared") -> Receivers:
        """The inputs of query heads, of which under GQA several can share one key or value; or, via input, of MLPs."""
        if via == "input":
            only = torch.zeros(1, dtype=torch.long, device=model.device)
            return cls(via, {receiver.layer: only for receiver in sorted(receivers)}, {})
        layers: dict[int, set[int]] = {}
        queries: dict[int, set[int]] = {}
        for layer, index in sorted(receivers):
            layers.setdefault(layer, set()).add(model.receiver(index, via))
            queries.setdefault(layer, set()).add(index)
        alone = queries if kv_heads == "expanded" and model.heads_of(via) < model.n_heads else {}
        found, seen_by = (
            {layer: torch.tensor(sorted(index), device=model.device) for layer, index in some.items()}
            for some in (layers, alone)
        )
        return cls(via, found, seen_by)


@dataclass(frozen=True)
class Senders:
    """Senders of one pass, in ascending order: heads of one layer, or MLPs; or sets of heads of any layers."""

    layers: tuple[int, ...]
    heads: Tensor | None  # [sender]: their indices; None: MLPs, or sets
    donated: Mapping[int, Tensor]  # layer -> z [batch, head, d_head], or MLP's output [batch, d], in the source run
    sets: Tensor | None = None  # [sender, layer, head]: which heads donate together

    @classmethod
    def of(cls, model: Model, senders: Sequence[Component], donated: Mapping[int, Tensor]) -> Senders:
        """These senders, and what their layers donate."""
        layers = tuple(sender.layer for sender in senders)
        if isinstance(senders[0], Mlp):
            return cls(layers, None, donated)
        return cls(layers, torch.tensor([sender.index for sender in senders], device=model.device), donated)

    @classmethod
    def together(cls, model: Model, sets: Sequence[Sequence[Head]], donated: Mapping[int, Tensor]) -> Senders:
        """Sets of heads, each of which donates at once; a pass begins at the lowest of all."""
        members = torch.zeros(len(sets), model.n_layers, model.n_heads, dtype=torch.bool)
        for number, heads in enumerate(sets):
            for layer, index in heads:
                members[number, layer, index] = True
        layers = {layer for heads in sets for layer, _ in heads}
        given = {layer: z for layer, z in donated.items() if layer in layers}
        return cls((min(layers),) * len(sets), None, given, members.to(model.device))

    def mlps_of(self, layer: int) -> bool:
        """Whether the layer's MLP is one of the senders."""
        return self.heads is None and self.sets is None and layer in self.layers


def to_receivers(model: Model, token: TokenCapture, senders: Senders, receivers: Receivers) -> dict[int, Tensor]:
    """Receiver layer -> its inputs [sender, batch, k, d_head] when one of the senders donates; all reach the receivers.

    Instead of what enters an MLP this is what the MLP makes of it [sender, batch, 1, d]: the same, one matrix later.
    """
    size, values = (len(senders.layers), len(token.tokens)), {}
    with model.trace(token.tokens.repeat(size[0], 1), token.position_ids.repeat(size[0], 1)):
        _enter(model, token, senders)
        last = max(receivers.heads)
        for here in range(senders.layers[0], last + 1):
            ends_here = here in receivers.heads
            if ends_here and receivers.via != "input":
                inputs = model.projection_of_input(here, receivers.via)[:, 0]
                values[here] = inputs[:, receivers.heads[here]].unflatten(0, size)
            residual = _frozen_attention(model, token, here, senders)
            model.skip_attention(here, residual)
            if ends_here and receivers.via == "input":
                values[here] = model.mlp(here, size[0] * size[1]).unflatten(0, size)
            if here == last and receivers.via != "input":
                model.skip_mlp(here, residual)
            else:
                _donate_mlps(model, here, senders, size)
        model.skip_layers(range(last + 1, model.n_layers), residual)
        model.skip_unembedding(residual)
    return values


def to_logits(model: Model, token: TokenCapture, senders: Senders, spec: Asked) -> Readout:
    """[sender, batch]: the logits' readout when one of the senders donates and every attention is frozen."""
    size = (len(senders.layers), len(token.tokens))
    with model.trace(token.tokens.repeat(size[0], 1), token.position_ids.repeat(size[0], 1)):
        _enter(model, token, senders)
        for here in range(senders.layers[0], model.n_layers):
            model.skip_attention(here, _frozen_attention(model, token, here, senders))
            _donate_mlps(model, here, senders, size)
        outcome = read_variants(model, spec, size[0], lambda logits: logits[:, 0].unflatten(0, size))
    return outcome


def _enter(model: Model, token: TokenCapture, senders: Senders) -> None:
    """Inside a trace: start at the first sender's layer with its clean residual."""
    first = senders.layers[0]
    model.skip_layers(range(first), token.entering[first].repeat(len(senders.layers), 1, 1))


def _frozen_attention(model: Model, token: TokenCapture, here: int, senders: Senders) -> Tensor:
    """[sender * batch, 1, d]: inside a trace, clean attention output, in the layer of heads with their donation."""
    count = len(senders.layers)
    if senders.sets is not None and here in senders.donated:
        z = token.z[here].unflatten(0, (1, -1))  # [1, batch, head, d_head]
        z = torch.where(senders.sets[:, here, None, :, None], senders.donated[here], z)  # [sender, batch, head, d_head]
        return model.attention_of(here, z.flatten(0, 1)[:, None])
    if senders.heads is None or here > senders.layers[0]:
        return token.attention[here].repeat(count, 1, 1)
    return model.attention_of(here, _donated_z(token, here, senders, senders.heads).flatten(0, 1)[:, None])


def _donated_z(token: TokenCapture, here: int, senders: Senders, heads: Tensor) -> Tensor:
    """[sender, batch, head, d_head]: in the layer of heads, clean outputs with each sender's donation."""
    z = token.z[here].repeat(len(heads), 1, 1, 1)
    one = torch.arange(len(heads), device=z.device)
    z[one, :, heads] = senders.donated[here][:, heads].transpose(0, 1)
    return z


def frozen_edits(model: Model, token: TokenCapture, senders: Senders, capture: Capture) -> list[Edit]:
    """Edits that make the token at `last` in a suffix pass equal to that of to_logits; what follows it recomputes."""
    slot, every = capture.live_index(capture.run.positions["last"]), torch.arange(model.n_heads, device=model.device)
    only, first, edits = every[:1], senders.layers[0], []
    for here in range(first, model.n_layers):
        heads = senders.heads if here == first else None
        z = token.z[here][None] if heads is None else _donated_z(token, here, senders, heads)
        edits.append(Edit(here, "z", slot, every, z))
        if senders.mlps_of(here):
            own = torch.tensor([[layer != here] for layer in senders.layers], device=model.device)
            edits.append(Edit(here, "mlp", slot, only, senders.donated[here][None, :, None], own))
    return edits


def _donate_mlps(model: Model, here: int, senders: Senders, size: tuple[int, int]) -> None:
    """Inside a trace, after attention: the layer's MLP, if it is a sender, adds what it adds in the source run."""
    if senders.mlps_of(here):
        output = model.mlp(here, size[0] * size[1]).clone()
        output.unflatten(0, size)[senders.layers.index(here), :, 0] = senders.donated[here]
        model.write_mlp(here, output)
