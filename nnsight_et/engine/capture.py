"""One plain run, kept: what later passes need to recompute only what an intervention can change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from nnsight_et.batch import Run
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class TokenCapture:
    """One token per example of a run, in every layer: what the one-token pass needs."""

    tokens: Tensor  # [batch, 1]
    position_ids: Tensor  # [batch, 1]
    entering: list[Tensor]  # per layer [batch, 1, d]: the residual entering it
    z: list[Tensor]  # per layer [batch, head, d_head]
    attention: list[Tensor]  # per layer [batch, 1, d]: what attention adds


@dataclass(frozen=True)
class Capture:
    """A base run. `live` [batch, m] are the tokens a suffix pass recomputes; the others are seen through `cache`."""

    run: Run
    live: Tensor
    entering: dict[int, Tensor]  # layer -> [batch, m, d]: residual entering it at the live tokens
    cache: list[tuple[Tensor, Tensor]]  # per layer keys and values [batch, kv head, c, d_head] of the first c tokens
    visible: Tensor  # [batch, m, c]: which of those tokens each live token attends to
    logits: Tensor  # [batch, vocabulary]: the run's own, at `last`
    token: TokenCapture | None

    def slot(self, position: Tensor) -> Tensor:
        """[batch]: where the token at `position` [batch] stands among the live ones."""
        return (self.live == position[:, None]).long().argmax(-1)


def suffix_of(run: Run, position: Tensor) -> Tensor:
    """[batch, m]: the tokens from the smallest of `position` [batch] to the end."""
    start, end = int(position.min()), run.tokens.shape[1]
    return torch.arange(start, end, device=run.tokens.device).expand(len(run.tokens), -1)


def live_at(run: Run, positions: Sequence[str]) -> Tensor:
    """[batch, m]: the tokens at the named positions, in the order of the prompt."""
    return torch.stack([run.positions[name] for name in positions], 1).sort(1).values


def captured(
    model: Model,
    run: Run,
    live: Tensor,
    layers: Iterable[int],
    at: Tensor | None = None,
    background: Sequence[Tensor] | None = None,
) -> Capture:
    """Run the prompts once, keeping what suffix passes over `live` [batch, m] from any of `layers` need.

    With `at` [batch], what the one-token pass needs of that token is kept too. With a background, per layer z
    [batch, seq, head, d_head], the tokens that are not live have these head outputs.
    """
    kept, entering, streams, heads, attention = frozenset(layers), {}, [], [], []
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    columns = torch.arange(run.tokens.shape[1], device=model.device)
    is_live = (live[:, :, None] == columns).any(1)[:, :, None, None]  # [batch, seq, 1, 1]
    with model.trace(run.tokens, run.position_ids, run.mask, cache=DynamicCache()):
        for layer in range(model.n_layers):
            residual = model.residual(layer)
            if layer in kept:
                entering[layer] = residual[row, live]
            z = model.z(layer)
            if background is not None:
                model.write_z(layer, torch.where(is_live, z, background[layer]))
            if at is not None:
                streams.append(residual[row, at[:, None]])
                heads.append(z[row[:, 0], at])
                attention.append(model.attention(layer)[row, at[:, None]])
        model.narrow_unembedding(row, run.positions["last"][:, None])
        logits = model.logits()[:, 0]
        cache = model.cached()
    token = None
    if at is not None:
        at = at[:, None]
        token = TokenCapture(run.tokens[row, at], run.position_ids[row, at], streams, heads, attention)
    return Capture(run, live, entering, *_seen(run, live, cache), logits, token)


def _seen(run: Run, live: Tensor, cache: list[tuple[Tensor, Tensor]]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The cache up to the last fixed token, and which of it each live token attends to."""
    columns = torch.arange(run.tokens.shape[1], device=live.device)
    fixed = run.mask.bool() & ~(live[:, :, None] == columns).any(1)
    width = int(columns[fixed.any(0)].max()) + 1 if fixed.any() else 0
    visible = fixed[:, None, :width] & (columns[:width] < live[:, :, None])
    return [(keys[:, :, :width], values[:, :, :width]) for keys, values in cache], visible


def head_outputs(model: Model, run: Run, wanted: Mapping[str, Iterable[int]]) -> dict[str, dict[int, Tensor]]:
    """Position -> layer -> z [batch, head, d_head] there, of one plain run, which stops above the last wanted layer."""
    layers = {name: frozenset(found) for name, found in wanted.items()}
    if not layers:
        return {}
    last = max(max(found) for found in layers.values())
    row = torch.arange(len(run.tokens), device=model.device)
    outputs: dict[str, dict[int, Tensor]] = {name: {} for name in layers}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(last + 1):
            z = model.z(layer)
            for name in layers:
                if layer in layers[name]:
                    outputs[name][layer] = z[row, run.positions[name]]
        residual = model.layer(last).output
        model.skip_layers(range(last + 1, model.n_layers), residual)
        model.skip_unembedding(residual)
    return outputs
