"""Path patching from and into MLPs once more, with plain PyTorch hooks beside plain_hooks.py: no nnsight, no engine.

Every run computes the whole sequence, for one sender at a time. A head is a pair (layer, index), an MLP a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from tests.helpers.plain_hooks import (
    blocks,
    editing,
    frozen_to_base,
    head_outputs,
    named,
    out_projection,
    projection,
    received,
    run_model,
)

NO_HEAD = (-1, 0)


def probability(logits: Tensor, last: Tensor, answer: Tensor) -> Tensor:
    """[batch]: the answer's after the last token, in the model's own precision."""
    row = torch.arange(len(last))
    return logits[row, last].softmax(-1)[row, answer]


def mlp_in(block):
    """The module that a token's residual, after a norm, enters first."""
    return block.fc1 if hasattr(block, "fc1") else named(block, "mlp", "shared_mlp")


def mlp_out(block):
    """The module whose output is added to the residual."""
    return named(block, "fc2", "post_feedforward_layernorm", "post_mlp_layernorm", "mlp", "shared_mlp")


def at_position(p: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
    """An edit: value [batch, d] at p [batch], whether tokens lie by prompt or all in one row."""

    def edit(now: Tensor) -> Tensor:
        by_prompt = now.reshape(len(p), -1, now.shape[-1]).clone()
        by_prompt[torch.arange(len(p)), p] = value
        return by_prompt.reshape(now.shape)

    return edit


def kept(model, run, modules: Sequence, side: str) -> list[Tensor]:
    """The inputs or outputs [batch, seq, d] of these modules in a run nothing is done to."""
    found: list[Tensor] = []
    with editing(modules, [lambda one: found.append(one.clone())] * len(modules), side):
        run_model(model, run.tokens, run.mask)
    return [one.reshape(len(run.tokens), -1, one.shape[-1]) for one in found]


def path_patching(
    model, pair, senders: Sequence, receivers: Sequence = (), via: str | None = None, at: str = "last"
) -> tuple[Tensor, Tensor]:
    """p_base [batch] and p_patched [sender, batch] of the base's answer; via "input" the receivers are MLPs."""
    base, p = pair.base, pair.base.positions[at]
    z = head_outputs(model, base), head_outputs(model, pair.source)
    given = kept(model, pair.source, [mlp_out(block) for block in blocks(model)], "output")
    given = [one[torch.arange(len(p)), pair.source.positions[at]] for one in given]
    p_base = probability(run_model(model, base.tokens, base.mask), base.positions["last"], pair.answer)
    patched = []
    for sender in senders:
        head = NO_HEAD if isinstance(sender, int) else sender
        with ExitStack() as run_1:
            modules = [out_projection(block) for block in blocks(model)]
            run_1.enter_context(editing(modules, frozen_to_base(pair, z, [head], at), "input"))
            if isinstance(sender, int):
                donate = at_position(p, given[sender])
                run_1.enter_context(editing([mlp_out(blocks(model)[sender])], [donate], "output"))
            if via is None:
                logits = run_model(model, base.tokens, base.mask)
            else:
                layers = sorted({one if isinstance(one, int) else one[0] for one in receivers})
                ends = [_end(model, layer, via) for layer in layers]
                inputs = kept(model, base, ends, "input" if via == "input" else "output")
        if via is not None:
            edits = [
                _edit(model, layer, (receivers, via), p, value) for layer, value in zip(layers, inputs, strict=True)
            ]
            with editing(ends, edits, "input" if via == "input" else "output"):
                logits = run_model(model, base.tokens, base.mask)
        patched.append(probability(logits, base.positions["last"], pair.answer))
    return p_base, torch.stack(patched)


def _end(model, layer: int, via: str):
    return mlp_in(blocks(model)[layer]) if via == "input" else projection(model, layer, via)[0]


def _edit(model, layer: int, end: tuple[Sequence, str], p: Tensor, value: Tensor) -> Callable[[Tensor], Tensor]:
    receivers, via = end
    if via == "input":
        return at_position(p, value[torch.arange(len(p)), p])
    heads = [index for here, index in receivers if here == layer]
    return received(model, layer, heads, (via, p), value)
