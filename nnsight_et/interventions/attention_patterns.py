"""Attention patterns (§4.1, §5.2): where heads look from a position. The model is loaded with eager attention."""

from __future__ import annotations

import nnsight
import torch
from torch import Tensor

from nnsight_et.batch import Run
from nnsight_et.models.model import Model


def attention_from(model: Model, run: Run, at: str, to: tuple[str, ...]) -> dict[str, Tensor]:
    """{"weights": [layer, head, to + 2, batch]}: how much each head at `at` attends to each named position.

    After the named positions come the first token, and all other tokens together: that axis sums to 1.
    """
    with model.session():
        weights = nnsight.save(_attention_from(model, run, at, to))
    return {"weights": weights}


def _attention_from(model: Model, run: Run, at: str, to: tuple[str, ...]) -> Tensor:
    row = torch.arange(len(run.tokens), device=model.device)
    columns = [run.positions[name] for name in to] + [run.mask.argmax(-1)]
    layers = []
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(model.n_layers):
            weights = model.attention_weights(layer)[row, :, run.positions[at]]  # [batch, head, seq]
            named = torch.stack([weights[row, :, column] for column in columns])  # [to + 1, batch, head]
            rest = weights.sum(-1) - named.sum(0)
            layers.append(torch.cat([named, rest[None]]).permute(2, 0, 1))  # [head, to + 2, batch]
        model.skip_unembedding(model.layer(model.n_layers - 1).output)
    return torch.stack(layers).cpu()
