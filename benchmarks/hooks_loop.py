"""Path patching as it is usually written: two whole forward passes per sender, PyTorch hooks, senders in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Component

SENDERS = 8  # side by side in one batch


def path_probabilities(
    module: Any, pair: Pair, at: str, senders: Sequence[Component], ends: tuple[str, Sequence[Component]]
) -> Tensor:
    """[sender, batch]: the answer's probability with the path from each sender to the ends (projection, heads) patched.

    Without heads at the end the path goes into the logits, in one pass.
    """
    base, source = _head_outputs(module, pair.base), _head_outputs(module, pair.source)
    found = []
    for first in range(0, len(senders), SENDERS):
        found.append(_some(module, pair, at, senders[first : first + SENDERS], (ends, base, source)))
    return torch.cat(found)


def _some(module: Any, pair: Pair, at: str, senders: Sequence[Component], setting: Any) -> Tensor:
    (via, receivers), base, source = setting
    position, batch, copies = pair.base.positions[at], len(pair.answer), len(senders)
    row = torch.arange(batch)
    frozen = []
    for layer, z in enumerate(base):
        new = z.repeat(copies, 1, 1, 1)
        for copy, sender in enumerate(senders):
            if sender.layer == layer:
                new[copy * batch + row, position, sender.index] = source[layer][
                    row, pair.source.positions[at], sender.index
                ]
        frozen.append(new)
    later = (torch.arange(pair.base.tokens.shape[1]) >= position[:, None]).repeat(copies, 1)

    def freeze(layer: int) -> Callable:
        return lambda _, args: (torch.where(later[..., None], frozen[layer].flatten(-2), args[0]),)

    outs = [layer.self_attn.o_proj for layer in module.model.layers]
    hooks = [out.register_forward_pre_hook(freeze(layer)) for layer, out in enumerate(outs)]
    kept: dict[int, Tensor] = {}
    ends = sorted({head.layer for head in receivers})
    for layer in ends:
        projection = getattr(module.model.layers[layer].self_attn, via)
        hooks.append(projection.register_forward_hook(lambda _, __, out, layer=layer: kept.__setitem__(layer, out)))
    with _removed(hooks):
        logits = _run(module, pair.base, copies)
    if receivers:
        width, place = module.config.head_dim, position.repeat(copies)

        def put(layer: int) -> Callable:
            def hook(_, __, out):
                new, every = out.clone(), torch.arange(len(out))
                for head in receivers:
                    if head.layer == layer:
                        part = slice(head.index * width, (head.index + 1) * width)
                        new[every, place, part] = kept[layer][every, place, part]
                return new

            return hook

        projections = [getattr(module.model.layers[layer].self_attn, via) for layer in ends]
        hooks = [one.register_forward_hook(put(layer)) for layer, one in zip(ends, projections, strict=True)]
        with _removed(hooks):
            logits = _run(module, pair.base, copies)
    every = torch.arange(len(logits))
    probability = logits.softmax(-1)[every, pair.answer.repeat(copies)]
    return probability.unflatten(0, (copies, batch))


def _head_outputs(module: Any, run: PromptBatch) -> list[Tensor]:
    kept: list[Tensor] = []
    outs = [layer.self_attn.o_proj for layer in module.model.layers]
    with _removed([out.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for out in outs]):
        _run(module, run, 1)
    return [z.unflatten(-1, (-1, module.config.head_dim)) for z in kept]


def _run(module: Any, run: PromptBatch, copies: int) -> Tensor:
    """[copies * batch, vocabulary]: logits at the last position."""
    with torch.no_grad():
        logits = module(
            input_ids=run.tokens.repeat(copies, 1),
            attention_mask=run.mask.repeat(copies, 1),
            position_ids=run.position_ids.repeat(copies, 1),
            use_cache=False,
        ).logits
    return logits[torch.arange(len(logits)), run.positions["last"].repeat(copies)]


def _removed(hooks: Sequence[Any]) -> ExitStack:
    stack = ExitStack()
    for hook in hooks:
        stack.callback(hook.remove)
    return stack
