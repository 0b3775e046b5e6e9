"""Plain PyTorch hooks, one head at a time and whole prompts every time: nothing is shared, skipped or batched.

Written from the definitions in docs/methods.md alone, without the engine and without the tests' hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Head
from nnsight_et.engine.paths import Path

Change = Callable[[Tensor], Tensor | None]
"""What a tensor becomes; None: what it was."""


class Hooks:
    """Interventions on one batch of pairs, whose prompts have one length, in a model of Llama's or Gemma's shape."""

    name = "plain hooks"

    def __init__(self, module: Any, pair: Pair) -> None:
        self.module, self.pair = module, pair
        self.layers = list(module.model.layers)
        self.width = module.config.head_dim
        self.group = module.config.num_attention_heads // module.config.num_key_value_heads
        self.every = torch.arange(len(pair.base.tokens))
        outs = [layer.self_attn.o_proj for layer in self.layers]
        self.base_z, self.source_z = (self.inputs_of(outs, run) for run in (pair.base, pair.source))

    def base(self) -> Tensor:
        """[batch, vocabulary]: the logits after the last token."""
        return self.run({}, {})

    def whole(self, head: Head, at: str | None) -> Tensor:
        """The same where the head has its output of the source run at a position, or at every one if it is None."""
        out = self.layers[head.layer].self_attn.o_proj
        return self.run({out: lambda z: self.donated(z, head, at)}, {})

    def path(self, path: Path, sender: Head, mlps: str = "recompute") -> Tensor:
        """The same where the path from one sender is patched; mlps "freeze": run 1 keeps the base's MLPs too."""
        frozen = {layer.self_attn.o_proj: self.base_z[layer.self_attn.o_proj] for layer in self.layers}
        out = self.layers[sender.layer].self_attn.o_proj
        frozen[out] = self.donated(frozen[out], sender, path.at)
        held: dict[Any, Change] = {}
        if mlps == "freeze":
            kept = self.outputs_of([layer.mlp for layer in self.layers])
            held = {mlp: lambda _, value=value: value for mlp, value in kept.items()}
        if not path.receivers:
            return self.run(_put(frozen), held)
        letter = {"query": "q", "key": "k", "value": "v"}[str(path.via)]
        receivers: dict[Any, set[int]] = {}
        for head in path.receivers:
            projection = getattr(self.layers[head.layer].self_attn, f"{letter}_proj")
            receivers.setdefault(projection, set()).add(head.index if letter == "q" else head.index // self.group)
        first: dict[Any, Tensor] = {}
        keep = {one: lambda value, one=one: first.__setitem__(one, value.clone()) for one in receivers}
        self.run(_put(frozen), held | keep)

        def put(projection: Any, heads: set[int]) -> Change:
            return lambda value: self._replaced(value, first[projection], heads, self.pair.base.positions[path.at])

        return self.run({}, {one: put(one, heads) for one, heads in receivers.items()})

    def edge(self, sender: Head, receiver: Head) -> Tensor:
        """One edge past all between: what the sender writes changes, at every token, in one head's query alone."""
        attention = self.layers[sender.layer].self_attn
        z = self.base_z[attention.o_proj]
        delta = attention.o_proj(self.donated(z, sender, None)) - attention.o_proj(z)
        later = self.layers[receiver.layer]
        (residual,) = self.inputs_of([later], self.pair.base).values()
        queries = later.self_attn.q_proj(later.input_layernorm(residual + delta))

        def put(value: Tensor) -> Tensor:
            new, part = value.clone(), slice(receiver.index * self.width, (receiver.index + 1) * self.width)
            new[..., part] = queries[..., part]
            return new

        return self.run({}, {later.self_attn.q_proj: put})

    def donated(self, z: Tensor, head: Head, at: str | None) -> Tensor:
        """z [batch, token, heads x width] with the head's part from the source run, at a position or everywhere."""
        new, part = z.clone(), slice(head.index * self.width, (head.index + 1) * self.width)
        donor = self.source_z[self.layers[head.layer].self_attn.o_proj]
        if at is None:
            new[..., part] = donor[..., part]
        else:
            place, origin = (run.positions[at] for run in (self.pair.base, self.pair.source))
            new[self.every, place, part] = donor[self.every, origin, part]
        return new

    def _replaced(self, value: Tensor, by: Tensor, heads: set[int], place: Tensor) -> Tensor:
        new = value.clone()
        for index in heads:
            part = slice(index * self.width, (index + 1) * self.width)
            new[self.every, place, part] = by[self.every, place, part]
        return new

    def inputs_of(self, modules: list[Any], run: PromptBatch) -> dict[Any, Tensor]:
        """What enters each of the modules in a plain run."""
        kept: dict[Any, Tensor] = {}
        self.run({one: lambda value, one=one: kept.__setitem__(one, value.clone()) for one in modules}, {}, run)
        return kept

    def outputs_of(self, modules: list[Any]) -> dict[Any, Tensor]:
        """What each of the modules puts out in the base run."""
        kept: dict[Any, Tensor] = {}
        self.run({}, {one: lambda value, one=one: kept.__setitem__(one, value.clone()) for one in modules})
        return kept

    @torch.no_grad()
    def run(
        self, inputs: Mapping[Any, Change], outputs: Mapping[Any, Change], run: PromptBatch | None = None
    ) -> Tensor:
        """[batch, vocabulary] of the base run, or of another, with modules' inputs and outputs changed."""
        run = self.pair.base if run is None else run

        def entering(change: Change) -> Callable:
            def hook(_: Any, args: tuple[Tensor, ...]) -> Any:
                new = change(args[0])
                return None if new is None else (new, *args[1:])

            return hook

        hooks = [one.register_forward_pre_hook(entering(change)) for one, change in inputs.items()]
        hooks += [one.register_forward_hook(lambda _, __, out, f=change: f(out)) for one, change in outputs.items()]
        try:
            return self.module(input_ids=run.tokens, use_cache=False, logits_to_keep=1).logits[:, 0]
        finally:
            for hook in hooks:
                hook.remove()


def _put(values: Mapping[Any, Tensor]) -> dict[Any, Change]:
    return {module: lambda _, value=value: value for module, value in values.items()}
