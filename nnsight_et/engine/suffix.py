"""The suffix pass: the base run again from some layer up, for its live tokens only, in many variants at once.

Each variant sees the fixed tokens through the captured cache, and itself. Variants stand side by side on the sequence
axis ("branches", under a 4-D mask) and, past `branch_tokens` tokens, on top of each other as rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from nnsight_et.core.errors import ExperimentError
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import Capture
from nnsight_et.engine.readout import Asked, LogitOf, Readout, joined_readouts, read_variants
from nnsight_et.models.model import Model

Site = Literal["query", "key", "value", "z", "mlp"]
SITES: tuple[Site, ...] = ("query", "key", "value", "z", "mlp")  # in the order of a forward pass


@dataclass(frozen=True)
class Edit:
    """Values for some heads of one layer at one live token per example; what an MLP adds is one head as wide as d.

    values [variant or 1, batch, k, d_head] replace what the run computes for heads [k]; keep [variant, k], where given,
    or [variant, batch, k], is how much of the run's own value stays: booleans choose, numbers in [0, 1] mix (and carry
    gradients). seen_by, where given, are the query heads [q] that see the edited keys or values; the others see the
    run's own.
    """

    layer: int
    site: Site
    live_index: Tensor  # [batch], among the live tokens
    heads: Tensor  # [k]
    values: Tensor
    keep: Tensor | None = None
    visible_to_heads: Tensor | None = None

    @property
    def variants(self) -> int:
        """How many variants it has; one if it is the same in all."""
        return max(len(self.values), 1 if self.keep is None else len(self.keep))

    def for_variants(self, variants: Tensor) -> Edit:
        """The same edit for some of the variants."""
        values = self.values if len(self.values) == 1 else self.values[variants]
        keep = self.keep if self.keep is None or len(self.keep) == 1 else self.keep[variants]
        return replace(self, values=values, keep=keep)


@dataclass(frozen=True)
class Layout:
    """How variants lie in one forward: row r and branch j hold variant r * branches + j.

    With two copies, all of it lies there twice: first without the edits that some query heads alone see, then with
    them. After attention both have the same outputs, those heads' from the second copy.
    """

    rows: int
    branches: int
    batch: int
    live: int
    copies: int = 1

    @property
    def size(self) -> int:
        """The rows of the forward's batch."""
        return self.copies * self.rows * self.batch

    def spread(self, live: Tensor) -> Tensor:
        """[size, branches * m, ...] from [batch, m, ...]: the same for every variant."""
        return live.repeat(self.copies * self.rows, self.branches, *([1] * (live.ndim - 2)))

    def by_variant(self, tokens: Tensor) -> Tensor:
        """[copies, rows, branches, batch, m, ...]: a view of [size, branches * m, ...]."""
        rows = tokens.unflatten(0, (self.copies, self.rows, self.batch))
        return rows.unflatten(3, (self.branches, self.live)).transpose(2, 3)


def suffix(
    model: Model, capture: Capture, start: int, edits: Sequence[Edit], spec: Asked | LogitOf, chunks: Chunks
) -> Readout:
    """[variant, batch]: the readout of every variant of the captured run, recomputed from layer `start` up.

    There are as many variants as the edits have; without edits one, the run itself.
    """
    variants = max((edit.variants for edit in edits), default=1)
    start, (batch, live) = model.recompute_from(start), capture.live.shape
    chunks = replace(chunks, branch_tokens=live) if capture.whole else chunks
    copies = 2 if any(edit.visible_to_heads is not None for edit in edits) else 1
    parts, first = list[Readout](), 0
    for count, rows, branches in chunks.plan_passes(variants, batch, live, copies):
        layout = Layout(rows, branches, batch, live, copies)
        padded = torch.arange(rows * branches, device=model.device).clamp(max=count - 1) + first
        here = [edit.for_variants(padded) for edit in edits]
        outcome = _pass(model, capture, start, here, spec, layout)
        parts.append(outcome.variants(slice(count)))
        first += count
    return joined_readouts(parts)


def _pass(
    model: Model, capture: Capture, start: int, edits: Sequence[Edit], spec: Asked | LogitOf, layout: Layout
) -> Readout:
    row = torch.arange(layout.batch, device=model.device)[:, None]
    tokens = layout.spread(capture.run.tokens[row, capture.live])
    places = layout.spread(capture.run.position_ids[row, capture.live])
    last = layout.spread(capture.live_index(capture.run.positions["last"])[:, None])
    last = last + torch.arange(layout.branches, device=model.device) * layout.live  # [size, branches]
    if more := capture.run.continuation:  # live tokens too, one behind the other
        last = (last[:, :, None] + torch.arange(1 + more, device=model.device)).flatten(1)
    first_copy = torch.arange(layout.rows * layout.batch, device=model.device)[:, None]
    last = last[: len(first_copy)]
    fixed = capture.run.position_ids[:, : capture.visible.shape[-1]]
    keys = torch.cat([fixed.repeat(layout.copies * layout.rows, 1), places], 1)
    mask = layout.spread(capture.run.mask) if capture.whole else _mask(model, capture, layout)

    def arrange(logits: Tensor) -> Tensor:
        logits = logits.unflatten(0, (layout.rows, layout.batch))
        if more:
            logits = logits.unflatten(2, (layout.branches, 1 + more))
        return logits.transpose(1, 2).flatten(0, 1)  # [variant, batch, (token,) vocabulary]

    with model.trace(tokens, places, mask, cache=None if capture.whole else _prefix(capture, start, layout)):
        if not capture.whole:
            model.narrow_windows(mask, places, keys)
        if start:
            model.skip_layers(range(start), layout.spread(capture.entering[start]))
        applied = 0
        for layer in range(start, model.n_layers):
            if capture.background is not None:
                where, values = (layout.spread(one) for one in (capture.background[0], capture.background[1][layer]))
                model.write_z(layer, torch.where(where, values, model.z(layer)))
            here = [edit for site in SITES for edit in edits if (edit.layer, edit.site) == (layer, site)]
            attention = [edit for edit in here if edit.site != "mlp"]
            _edit_attention(model, layer, attention, layout)
            if layer == model.n_layers - 1:
                model.narrow_last_mlp(layout.size, first_copy, last)
            for edit in here[len(attention) :]:
                _apply(model, edit, layout)
            applied += len(here)
        if applied != len(edits):
            raise ExperimentError(f"suffix from layer {start}: {applied} of {len(edits)} edits applied; accepted: all")
        model.narrow_unembedding(first_copy, last)
        outcome = read_variants(model, spec, layout.rows, arrange)  # [variant, batch]
    return outcome


def _edit_attention(model: Model, layer: int, edits: Sequence[Edit], layout: Layout) -> None:
    """Inside a trace: make the edits of a layer's attention, in the order of a forward pass."""
    for edit in edits:
        _apply(model, edit, layout)
        if edit.visible_to_heads is not None:
            assert len(edits) == 1, "what some heads alone see is a layer's only edit"
            _join(model, layer, edit.visible_to_heads)


def _apply(model: Model, edit: Edit, layout: Layout) -> None:
    """Inside a trace: write one edit into every variant."""
    whole = _read(model, edit, layout.size).clone()
    view = layout.by_variant(whole)[0 if edit.visible_to_heads is None else 1 :]
    row, slot = torch.arange(layout.batch, device=whole.device)[:, None], edit.live_index[:, None]
    shape = (layout.rows, layout.branches, layout.batch, len(edit.heads), whole.shape[-1])
    values = edit.values.expand(layout.rows * layout.branches, -1, -1, -1).reshape(shape).to(whole.dtype)
    if edit.keep is not None:
        current = view[:, :, :, row, slot, edit.heads]
        each = edit.keep if edit.keep.ndim == 3 else edit.keep[:, None]  # [variant, batch or 1, k]
        every = each.expand(layout.rows * layout.branches, -1, -1)
        keep = every.unflatten(0, (layout.rows, layout.branches))[..., None]
        choose = keep.dtype == torch.bool
        values = torch.where(keep, current, values) if choose else keep * current + (1 - keep) * values
    view[:, :, :, row, slot, edit.heads] = values.to(whole.dtype)  # a mask in fp32 makes them wider
    if edit.site == "mlp":
        model.write_mlp(edit.layer, whole[:, :, 0])
    elif edit.site == "z":
        model.write_z(edit.layer, whole)
    else:
        model.write_projection(edit.layer, edit.site, whole)


def _read(model: Model, edit: Edit, batch: int) -> Tensor:
    """[batch, seq, head, d_head]: inside a trace, what the run computes where the edit is."""
    if edit.site == "mlp":
        return model.mlp(edit.layer, batch)[:, :, None]
    return model.z(edit.layer) if edit.site == "z" else model.projection(edit.layer, edit.site)


def _join(model: Model, layer: int, heads: Tensor) -> None:
    """Inside a trace of two copies: give both the heads' outputs of the second and all others' of the first."""
    first, second = model.z(layer).chunk(2)
    outputs = first.clone()
    outputs[:, :, heads] = second[:, :, heads]
    model.write_z(layer, outputs.repeat(2, 1, 1, 1))


def _prefix(capture: Capture, start: int, layout: Layout) -> DynamicCache:
    """A fresh cache with the fixed tokens' keys and values; skipped layers get one number, which nobody reads.

    It copies what it is given, layer by layer: one row needs no copy before that.
    """
    width, rows = capture.visible.shape[-1], layout.copies * layout.rows

    def of(layer: int, one: Tensor) -> Tensor:
        if layer < start:
            return one.new_zeros(1, 1, 1, 1)
        fixed = one[:, :, :width]
        return fixed if rows == 1 else fixed.repeat(rows, 1, 1, 1)

    return DynamicCache((of(layer, keys), of(layer, values)) for layer, (keys, values) in enumerate(capture.cache))


def _mask(model: Model, capture: Capture, layout: Layout) -> Tensor:
    """[size, 1, branches * m, c + branches * m]: every branch sees the fixed tokens before it, and itself."""
    m, branches = layout.live, layout.branches
    real = capture.run.mask.bool().gather(1, capture.live)[:, None]  # [batch, 1, m]
    order = torch.arange(m, device=model.device)
    itself = (order <= order[:, None]) & real | (order == order[:, None])  # [batch, m, m]; padding sees itself alone
    own = torch.zeros(layout.batch, branches, m, branches, m, dtype=torch.bool, device=model.device)
    one = torch.arange(branches, device=model.device)
    own[:, one, :, one] = itself.expand(branches, -1, -1, -1)
    sees = torch.cat([capture.visible.repeat(1, branches, 1), own.flatten(3).flatten(1, 2)], -1)
    added = torch.zeros(sees.shape, dtype=model.dtype, device=model.device)
    rows = layout.copies * layout.rows
    return added.masked_fill(~sees, torch.finfo(model.dtype).min).repeat(rows, 1, 1)[:, None]
