"""One plain run, kept: what later passes need to recompute only what an intervention can change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from nnsight_et.core.batch import PromptBatch
from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine.paths import Kind
from nnsight_et.engine.readout import read_logits
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
    """A base run. `live` [batch, m] are the tokens a suffix pass recomputes; the others are seen through `cache`.

    Of a model with recurrent layers every token is live, and those whose heads have a background keep it.
    """

    run: PromptBatch
    live: Tensor
    entering: dict[int, Tensor]  # layer -> [batch, m, d]: residual entering it at the live tokens
    cache: list[tuple[Tensor, Tensor]]  # per layer keys and values [batch, kv head, seq, d_head] of all tokens
    visible: Tensor  # [batch, m, c]: which of the first c tokens each live token sees through the cache
    logits: Tensor  # [batch, vocabulary]: the run's own, at `last`; with a continuation [batch, token, vocabulary]
    tokens: tuple[TokenCapture, ...]  # one per position that was asked for
    whole: bool = False  # recomputed from the first token on, without a cache
    background: tuple[Tensor, Sequence[Tensor]] | None = None  # of a whole one: where [batch, seq, 1, 1], per layer z

    def with_live(self, live: Tensor) -> Capture:
        """The same run with fewer live tokens [batch, fewer]: those in between are now seen through the cache."""
        if self.whole:
            return self
        slot = (self.live[:, :, None] == live[:, None]).long().argmax(1)
        row = torch.arange(len(live), device=live.device)[:, None]
        entering = {layer: residual[row, slot] for layer, residual in self.entering.items()}
        return replace(self, live=live, entering=entering, visible=visible(self.run, live))

    def live_index(self, position: Tensor) -> Tensor:
        """[batch]: where the token at `position` [batch] stands among the live ones."""
        return (self.live == position[:, None]).long().argmax(-1)


def suffix_of(run: PromptBatch, position: Tensor) -> Tensor:
    """[batch, m]: the tokens from the smallest of `position` [batch] to the end."""
    start, end = int(position.min()), run.tokens.shape[1]
    return torch.arange(start, end, device=run.tokens.device).expand(len(run.tokens), -1)


def live_at(run: PromptBatch, positions: Sequence[str]) -> Tensor:
    """[batch, m]: the tokens at the named positions, in the order of the prompt, and all that follow it."""
    named = torch.stack([run.positions[name] for name in positions], 1)
    return torch.cat([named, run.read[:, 1:]], 1).sort(1).values


def capture_run(
    model: Model,
    run: PromptBatch,
    live: Tensor,
    layers: Iterable[int],
    at: Sequence[Tensor] = (),
    background: Sequence[Tensor] | None = None,
) -> Capture:
    """Run the prompts once, keeping what suffix passes over `live` [batch, m] from any of `layers` need.

    Of the tokens `at`, [batch] each, what the one-token pass needs is kept too. With a background, per layer z
    [batch, seq, head, d_head], the tokens that are not live have these head outputs.
    """
    kept, entering, streams, heads, attention = {model.recompute_from(layer) for layer in layers}, {}, [], [], []
    whole = bool(model.recurrent)
    row = torch.arange(len(run.tokens), device=model.device)[:, None]
    columns = torch.arange(run.tokens.shape[1], device=model.device)
    is_live = (live[:, :, None] == columns).any(1)[:, :, None, None]  # [batch, seq, 1, 1]
    live = columns.expand(len(live), -1) if whole else live
    places = torch.stack(tuple(at), 1) if at else None  # [batch, n]
    with model.trace(run.tokens, run.position_ids, run.mask, cache=None if whole else DynamicCache()):
        for layer in range(model.n_layers):
            residual = model.residual(layer)
            if layer in kept:
                entering[layer] = residual[row, live]
            z = model.z(layer)
            if background is not None:
                model.write_z(layer, torch.where(is_live, z, background[layer]))
            if places is not None:
                streams.append(residual[row, places])
                heads.append(z[row, places])
                attention.append(model.attention(layer)[row, places])
        logits = read_logits(model, run)
        cache = [] if whole else model.cached_keys_and_values()
    if any(keys.shape[2] != run.tokens.shape[1] for keys, _ in cache):
        found = sorted({keys.shape[2] for keys, _ in cache})
        raise ExperimentError(f"capture: keys of {found} tokens in the cache; accepted: of all {run.tokens.shape[1]}")
    tokens = []
    for number, place in enumerate(at):
        one, only = slice(number, number + 1), place[:, None]
        entered, added = ([values[:, one] for values in some] for some in (streams, attention))
        z = [values[:, number] for values in heads]
        tokens.append(TokenCapture(run.tokens[row, only], run.position_ids[row, only], entered, z, added))
    behind = (~is_live, background) if whole and background is not None else None
    return Capture(run, live, entering, cache, visible(run, live), logits, tuple(tokens), whole, behind)


def visible(run: PromptBatch, live: Tensor) -> Tensor:
    """[batch, m, c]: which of the tokens up to the last fixed one each live token attends to."""
    columns = torch.arange(run.tokens.shape[1], device=live.device)
    fixed = run.mask.bool() & ~(live[:, :, None] == columns).any(1)
    width = int(columns[fixed.any(0)].max()) + 1 if fixed.any() else 0
    return fixed[:, None, :width] & (columns[:width] < live[:, :, None])


def cache_with(
    model: Model,
    run: PromptBatch,
    heads: Mapping[int, tuple[Tensor, Tensor]],
    keys: Mapping[int, Tensor],
    values: Mapping[int, Tensor],
) -> list[tuple[Tensor, Tensor]]:
    """The cache of a run in which some heads of some layers have these keys and values at the first c tokens.

    heads: layer -> key heads [k] and value heads [k]; keys and values: layer -> [batch, c, k, d_head], before RoPE. The
    cache has them as the model keeps them. Of other heads above the lowest of those layers it says nothing.
    """
    with model.trace(run.tokens, run.position_ids, run.mask, cache=DynamicCache()):
        for layer in sorted(heads):
            for via, index, given in zip(("key", "value"), heads[layer], (keys[layer], values[layer]), strict=True):
                current = model.projection(layer, via).clone()
                current[:, : given.shape[1], index] = given.to(model.device, current.dtype)
                model.write_projection(layer, via, current)
        model.stop_before_mlp(model.n_layers - 1)
        cache = model.cached_keys_and_values()
    return cache


def head_outputs(model: Model, run: PromptBatch, wanted: Mapping[str, Iterable[int]]) -> dict[str, dict[int, Tensor]]:
    """Position -> layer -> z [batch, head, d_head] there, of one plain run."""
    heads: Mapping[tuple[str, Kind], Iterable[int]] = {(name, "heads"): layers for name, layers in wanted.items()}
    return {name: found for (name, _), found in component_outputs(model, run, heads).items()}


def component_outputs(
    model: Model, run: PromptBatch, wanted: Mapping[tuple[str, Kind], Iterable[int]]
) -> dict[tuple[str, Kind], dict[int, Tensor]]:
    """(position, kind) -> layer -> z [batch, head, d_head], or what the MLP adds [batch, d], of one plain run.

    It stops before the last wanted layer's MLP, or after it if that is wanted.
    """
    layers = {key: frozenset(found) for key, found in wanted.items()}
    outputs: dict[tuple[str, Kind], dict[int, Tensor]] = {key: {} for key in layers}
    if not any(layers.values()):
        return outputs
    asked = sorted(set().union(*layers.values()))
    row = torch.arange(len(run.tokens), device=model.device)
    kinds: tuple[Kind, ...] = ("heads", "mlps")  # in the order of a forward pass
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in asked:
            for kind in kinds:
                here = [key for key, found in layers.items() if key[1] == kind and layer in found]
                if here:
                    values = model.z(layer) if kind == "heads" else model.mlp(layer, len(row))
                for key in here:
                    outputs[key][layer] = values[row, run.positions[key[0]]]
        if any(kind == "mlps" and asked[-1] in found for (_, kind), found in layers.items()):
            model.stop_after(asked[-1])
        else:
            model.stop_before_mlp(asked[-1])
    return outputs
