"""As much of TransformerLens as benchmarks.transformer_lens asks for, on PyTorch hooks: the library is not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Hook = tuple[str, Callable[..., Tensor | None]]


class TransformerBridge:
    """A Llama whose head outputs ("hook_z") and queries ("hook_q") are read and replaced by name."""

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, SimpleNamespace(n_layers=model.config.num_hidden_layers)

    @classmethod
    def boot_transformers(cls, _name: str, *, hf_model: Any, tokenizer: Any, device: str) -> TransformerBridge:
        return cls(hf_model)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits

    def run_with_hooks(self, tokens: Tensor, fwd_hooks: Sequence[Hook], stop_at_layer: int | None = None) -> Tensor:
        with ExitStack() as stack:
            for name, function in fwd_hooks:
                stack.callback(self._hooked(name, function).remove)
            return self(tokens)

    def run_with_cache(self, tokens: Tensor, names_filter: Callable[[str], bool] = bool) -> tuple[Tensor, dict]:
        kept: dict[str, Tensor] = {}
        names = [f"blocks.{layer}.attn.hook_{kind}" for layer in range(self.cfg.n_layers) for kind in "zq"]
        hooks = [(name, lambda z, hook, name=name: kept.update({name: z})) for name in names if names_filter(name)]
        return self.run_with_hooks(tokens, hooks), kept

    def _hooked(self, name: str, function: Callable[..., Tensor | None]) -> Any:
        _, layer, _, kind = name.split(".")
        attention = self.model.model.layers[int(layer)].self_attn

        def replaced(flat: Tensor) -> Tensor:
            heads = flat.unflatten(-1, (-1, attention.head_dim)).clone()
            new = function(heads, hook=None)
            return (heads if new is None else new).flatten(-2)

        if kind == "hook_z":
            return attention.o_proj.register_forward_pre_hook(lambda _, args: (replaced(args[0]),))
        return attention.q_proj.register_forward_hook(lambda _, __, queries: replaced(queries))


def get_act_patch_direct_path(
    bridge: TransformerBridge,
    tokens: Tensor,
    _source: dict,
    _base: dict,
    metric: Callable,
    *_edge: object,
    verbose: bool,
) -> Tensor:
    """[layer, head]: the metric of the plain run everywhere; the benchmark only times what it does."""
    layers, heads = bridge.cfg.n_layers, bridge.model.config.num_attention_heads
    return metric(bridge(tokens)).expand(layers, heads)


def modules() -> dict[str, Any]:
    """What `import transformer_lens` is to find."""
    patching = SimpleNamespace(get_act_patch_direct_path=get_act_patch_direct_path)
    bridge = SimpleNamespace(TransformerBridge=TransformerBridge)
    return {
        "transformer_lens": SimpleNamespace(patching=patching, model_bridge=bridge),
        "transformer_lens.model_bridge": bridge,
    }
