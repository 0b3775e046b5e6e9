"""The other methods once more, with plain PyTorch hooks beside plain_hooks.py: no nnsight, no engine, no shortcut.

Every run computes the whole sequence. Heads are pairs (layer, index); `heads` is a dict from a position's name to such
pairs. A run has `tokens` [batch, seq], `mask` [batch, seq] and `positions`; a pair has `base`, `source` and `answer`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from tests.helpers import plain_hooks
from tests.helpers.plain_hooks import (
    attention_module,
    blocks,
    editing,
    head_outputs,
    out_projection,
    projection,
    replaced_logits,
    sizes,
)

Heads = Mapping[str, Collection]


def at_last(run, logits: Tensor) -> Tensor:
    """[batch, vocab] of [batch, seq, vocab]: what the model says after each prompt."""
    return logits[torch.arange(len(logits)), run.positions["last"]]


def plain_logits(model, run) -> Tensor:
    """[batch, vocab]: logits after the last token of a run nothing is done to."""
    return at_last(run, plain_hooks.run_model(model, run.tokens, run.mask))


def probabilities(logits: Tensor, answer: Tensor) -> Tensor:
    """[batch]: the answer's, from logits [batch, vocab]."""
    return logits.softmax(-1)[torch.arange(len(answer)), answer]


def donated_logits(model, run, z: Sequence[Tensor], positions: Mapping[str, Tensor], heads: Heads) -> Tensor:
    """[batch, vocab]: last logits when the heads at each position of `run` output z, per layer, at the donor's own."""
    row, replaced = torch.arange(len(run.tokens)), {}
    for layer, values in enumerate(z):
        which = torch.zeros(*run.tokens.shape, values.shape[2], dtype=torch.bool)
        new = torch.zeros(*which.shape, values.shape[3], dtype=values.dtype)
        for name, chosen in heads.items():
            for index in [index for here, index in chosen if here == layer]:
                which[row, run.positions[name], index] = True
                new[row, run.positions[name], index] = values[row, positions[name], index]
        replaced[layer] = (which, new)
    return replaced_logits(model, run, replaced)


def patched_logits(model, pair, heads: Heads) -> Tensor:
    """[batch, vocab]: activation patching, at any number of positions at once."""
    return donated_logits(model, pair.base, head_outputs(model, pair.source), pair.source.positions, heads)


def across_logits(recipient, donor, run, heads: Heads) -> Tensor:
    """[batch, vocab]: the recipient's last logits when these heads have their outputs in the donor (CMAP)."""
    return donated_logits(recipient, run, head_outputs(donor, run), run.positions, heads)


def without_logits(model, run, values: Sequence[Tensor], heads: Heads) -> Tensor:
    """[batch, vocab]: last logits when only these heads output `values`, per layer [seq or batch x seq, head, d]."""
    wide = [value.expand(*run.tokens.shape, *value.shape[-2:]) for value in values]
    return donated_logits(model, run, wide, run.positions, heads)


def masked_logits(model, pair, heads: Sequence, at: str, mask: Tensor) -> Tensor:
    """[batch, vocab]: last logits when each head is mask * own + (1 - mask) * source's; gradients flow to the mask."""
    source, run = head_outputs(model, pair.source), pair.base
    row, p, p_source = torch.arange(len(run.tokens)), run.positions[at], pair.source.positions[at]

    def edit(layer: int) -> Callable[[Tensor], Tensor]:
        def mixed(flat: Tensor) -> Tensor:
            z = flat.clone().unflatten(-1, (sizes(model)[0], -1))
            for keep, (here, index) in zip(mask, heads, strict=True):
                if here == layer:
                    z[row, p, index] = keep * z[row, p, index] + (1 - keep) * source[layer][row, p_source, index]
            return z.flatten(-2)

        return mixed

    return _with_gradient(model, run, edit)


def attributed(model, pair, at: str) -> Tensor:
    """[layer, head, batch]: the gradient of p / p_base by each head's output at `at`, times source less base output."""
    base, source, run = head_outputs(model, pair.base), head_outputs(model, pair.source), pair.base
    row, p, p_source = torch.arange(len(run.tokens)), run.positions[at], pair.source.positions[at]
    added = [torch.zeros_like(z[row, p]).requires_grad_() for z in base]

    def edit(layer: int) -> Callable[[Tensor], Tensor]:
        def shifted(flat: Tensor) -> Tensor:
            z = flat.clone().unflatten(-1, (sizes(model)[0], -1))
            z[row, p] = z[row, p] + added[layer]
            return z.flatten(-2)

        return shifted

    p_answer = probabilities(_with_gradient(model, run, edit), pair.answer)
    (p_answer / p_answer.detach()).sum().backward()
    steps = [there[row, p_source] - here[row, p] for here, there in zip(base, source, strict=True)]
    slopes = [one.grad for one in added if one.grad is not None]
    return torch.stack([(slope * step).sum(-1).T for slope, step in zip(slopes, steps, strict=True)])


def _with_gradient(model, run, edit: Callable[[int], Callable[[Tensor], Tensor]]) -> Tensor:
    modules = [out_projection(block) for block in blocks(model)]
    places = (run.mask.long().cumsum(-1) - 1).clamp(min=0)
    with editing(modules, [edit(layer) for layer in range(len(modules))], "input"):
        logits = model(input_ids=run.tokens, attention_mask=run.mask, position_ids=places, use_cache=False).logits
    return at_last(run, logits)


def across_input_logits(recipient, donor, run, heads: Sequence, at: str, inputs: Sequence[str]) -> Tensor:
    """[batch, vocab]: last logits when these heads have the donor's inputs: queries at `at`, keys and values before it.

    All heads' outputs before `at` are the recipient's own; from there on everything is computed anew.
    """
    place, p = torch.arange(run.tokens.shape[1]), run.positions[at][:, None]
    own = head_outputs(recipient, run)
    group = sizes(recipient)[0] // sizes(recipient)[1]
    with ExitStack() as stack:
        for via in inputs:
            where = place == p if via == "query" else place < p  # [batch, seq]
            for layer in {layer for layer, _ in heads}:
                slots = {index if via == "query" else index // group for here, index in heads if here == layer}
                module, columns = projection(recipient, layer, via)
                theirs, mine = _projected(donor, run, layer, via), columns[sorted(slots)].flatten()

                def edit(out: Tensor, theirs=theirs, mine=mine, where=where) -> Tensor:
                    which = torch.zeros(out.shape, dtype=torch.bool)
                    which[:, :, mine] = where[:, :, None]
                    return torch.where(which, theirs, out)

                stack.enter_context(editing([module], [edit], "output"))
        frozen = (place < p)[:, :, None].expand(-1, -1, own[0].shape[2])
        return replaced_logits(recipient, run, {layer: (frozen, z) for layer, z in enumerate(own)})


def _projected(model, run, layer: int, via: str) -> Tensor:
    kept: list[Tensor] = []
    with editing([projection(model, layer, via)[0]], [lambda out: kept.append(out.clone())], "output"):  # type: ignore[func-returns-value]
        plain_hooks.run_model(model, run.tokens, run.mask)
    return kept[0]


def knockout_logits(model, run, first: int, blind: Tensor, to: Tensor) -> Tensor:
    """[batch, vocab]: last logits when in layers >= first `blind` [batch] does not attend to `to` [batch].

    The additive mask that attention is given is exchanged layer by layer; padding, which sees nothing, sees itself.
    """
    place = torch.arange(run.tokens.shape[1])
    back = place[:, None] - place
    with ExitStack() as stack:
        for layer, block in enumerate(blocks(model)):
            near = (back >= 0) & (back < (window(model, layer) or len(place)))
            sees = near & run.mask.bool()[:, None] | (back == 0)
            if layer >= first:
                sees[torch.arange(len(blind)), blind, to] = False
            mask = torch.zeros(sees.shape).masked_fill(~sees, -1e9)[:, None].to(model.dtype)

            def exchange(_module, args, kwargs, mask=mask):
                return args, kwargs | {"attention_mask": mask}

            handle = attention_module(block).register_forward_pre_hook(exchange, with_kwargs=True)
            stack.callback(handle.remove)
        return plain_logits(model, run)


def window(model, layer: int) -> int | None:
    """How many tokens a token of the layer sees, itself included; None: all."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    narrow = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if narrow else None


def attention(model, run) -> Tensor:
    """[layer, batch, head, seq, seq]: Hugging Face's own output_attentions, of a copy with eager attention."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    places = (run.mask.long().cumsum(-1) - 1).clamp(min=0)
    options = {"position_ids": places, "attention_mask": run.mask, "output_attentions": True, "use_cache": False}
    with torch.no_grad():
        return torch.stack(twin(input_ids=run.tokens, **options).attentions)
