"""The same by TransformerLens' bridge and its hooks, a head at a time."""

# To a type checker `transformer_lens` can be this folder's neighbour.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from transformer_lens import patching  # isort: skip - its type checker cannot be imported after nnsight
from transformer_lens.model_bridge import TransformerBridge  # isort: skip

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor

from nnsight_et.core.batch import Pair
from nnsight_et.core.circuit import Head
from nnsight_et.engine.paths import Path


class Lens:
    """Interventions on one batch of pairs, whose prompts have one length."""

    name = "TransformerLens"

    def __init__(self, module: Any, tokenizer: Any, pair: Pair) -> None:
        boot = TransformerBridge.boot_transformers
        self.bridge: Any = boot("other_tools", hf_model=module, tokenizer=tokenizer, device="cpu")
        self.pair, self.every = pair, torch.arange(len(pair.base.tokens))
        self.layers = range(self.bridge.cfg.n_layers)
        self.group = module.config.num_attention_heads // module.config.num_key_value_heads
        self.cache()

    @torch.no_grad()
    def cache(self) -> None:
        """Run base and source once, and keep all heads' outputs."""
        keep = {"names_filter": lambda name: name.endswith("attn.hook_z")}
        runs = self.pair.source, self.pair.base
        self.caches = [self.bridge.run_with_cache(run.tokens, **keep)[1] for run in runs]

    def base(self) -> Tensor:
        """[batch, vocabulary]: the logits after the last token."""
        return self._run([])

    def whole(self, head: Head, at: str) -> Tensor:
        """The same where the head has its output of the source run at a position."""
        return self._run([(_z(head.layer), lambda z, hook: self._donated(z, head, at))])

    def path(self, path: Path, sender: Head) -> Tensor:
        """The same where the path from one sender is patched."""
        place = self.pair.base.positions[path.at]

        def freeze(layer: int) -> tuple[str, Callable]:
            def hook(z: Tensor, hook: Any) -> Tensor:
                z[self.every, place] = self.caches[1][_z(layer)][self.every, place]
                return self._donated(z, sender, path.at) if layer == sender.layer else z

            return _z(layer), hook

        frozen = [freeze(layer) for layer in self.layers]
        if not path.receivers:
            return self._run(frozen)
        letter = {"query": "q", "key": "k", "value": "v"}[str(path.via)]
        receivers: dict[str, set[int]] = {}
        for head in path.receivers:  # keys and values have an axis of their own heads
            index = head.index if letter == "q" else head.index // self.group
            receivers.setdefault(f"blocks.{head.layer}.attn.hook_{letter}", set()).add(index)
        first: dict[str, Tensor] = {}

        def put(name: str, heads: list[int]) -> Callable:
            def hook(value: Tensor, hook: Any) -> Tensor:
                for index in heads:
                    value[self.every, place, index] = first[name][self.every, place, index]
                return value

            return hook

        keep = [(name, lambda value, hook, name=name: first.update({name: value.clone()})) for name in receivers]
        self._run([*frozen, *keep])
        return self._run([(name, put(name, sorted(heads))) for name, heads in receivers.items()])

    @torch.no_grad()
    def own_whole(self, heads: Sequence[Head], read: Callable[[Tensor], Tensor]) -> Tensor:
        """[head]: its own get_act_patch_attn_head_out_all_pos, read by a function of logits [batch, vocabulary]."""
        asked = DataFrame(heads, columns=["layer", "head"])
        end = {"index_axis_names": None, "index_df": asked}
        sweep = patching.get_act_patch_attn_head_out_all_pos
        return sweep(self.bridge, self.pair.base.tokens, self.caches[0], lambda logits: read(logits[:, -1]), **end)

    @torch.no_grad()
    def own_edges(self, sender: Head, read: Callable[[Tensor], Tensor]) -> Tensor:
        """[layer, head]: its own get_act_patch_direct_path, from one head into the query of every later one."""
        sweep = patching.get_act_patch_direct_path
        end = (lambda logits: read(logits[:, -1]), sender.layer, sender.index, "q")
        return sweep(self.bridge, self.pair.base.tokens, *self.caches, *end, verbose=False)

    def process_weights(self) -> None:
        """Fold and centre its weights, as HookedTransformer does, and run base and source again."""
        self.bridge.enable_compatibility_mode(disable_warnings=True)
        self.cache()

    def _donated(self, z: Tensor, head: Head, at: str) -> Tensor:
        place, origin = (run.positions[at] for run in (self.pair.base, self.pair.source))
        z[self.every, place, head.index] = self.caches[0][_z(head.layer)][self.every, origin, head.index]
        return z

    @torch.no_grad()
    def _run(self, hooks: Sequence[tuple[str, Callable]]) -> Tensor:
        return self.bridge.run_with_hooks(self.pair.base.tokens, fwd_hooks=list(hooks))[:, -1]


def _z(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"
