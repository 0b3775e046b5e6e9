"""The transformers model inside what other tools make of one: nnsight's own models, a bridge of TransformerLens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from nnsight import TransformersModel
from torch import Tensor

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.core.notices import Notice

INSIDE = "_original_component."  # what TransformerLens writes before the name of a module that it has wrapped


@dataclass(frozen=True)
class Unwrapped:
    """The model, the tokenizer it came with, and what of its tool is left behind."""

    module: Any
    tokenizer: Any
    notices: tuple[Notice, ...] = ()


def unwrap(model: Any) -> Unwrapped | None:
    """The transformers model in nnsight's or TransformerLens' one, its weights shared; None if it is neither.

    Weights that nnsight has not read yet are read. UnsupportedModel if TransformerLens keeps the weights in a layout of
    its own, or has changed them.
    """
    if isinstance(model, TransformersModel):
        if not model.dispatched:
            model.dispatch()
        return Unwrapped(model._module, model.tokenizer)
    if not type(model).__module__.startswith("transformer_lens"):
        return None
    kind = type(model).__name__
    if not hasattr(model, "original_model"):
        accept = "TransformerBridge.boot_transformers(name), which keeps them as transformers has them"
        raise UnsupportedModel(f"{kind}: its weights are in TransformerLens's own layout; accepted: {accept}")
    if model.compatibility_mode or getattr(model, "_weights_processed", False):
        accept = "a bridge before enable_compatibility_mode() or process_weights()"
        raise UnsupportedModel(f"{kind}: TransformerLens has changed its weights; accepted: {accept}")
    hooked = sorted(name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks)
    notices = [Notice("hooks", kind, f"hooks of the bridge are ignored: {', '.join(hooked[:5])}")] if hooked else []
    return Unwrapped(_plain_twin(model.original_model, kind), model.tokenizer, tuple(notices))


def _plain_twin(wrapped: Any, kind: str) -> Any:
    """A transformers model of the same class and the same weights, without the modules put around its own."""
    with init_empty_weights(include_buffers=False):
        twin = type(wrapped)(wrapped.config)
    wanted, found, odd = set(twin.state_dict()), dict[str, Tensor](), list[str]()
    for key, tensor in wrapped.state_dict().items():
        name = key.replace(INSIDE, "")
        if name in wanted:
            found[name] = tensor
        elif _has_module(twin, name) and bool(torch.any(tensor)):  # it adds biases of zeros
            odd.append(name)
    if odd or wanted - set(found):
        names = ", ".join(sorted(odd or wanted - set(found))[:3])
        what = "it has weights that the model in transformers has not" if odd else "it lacks weights"
        raise UnsupportedModel(f"{kind}: {what}: {names}; accepted: a bridge as boot_transformers makes it")
    twin.load_state_dict(found, assign=True)
    return twin.eval()


def _has_module(twin: Any, name: str) -> bool:
    return any(path == name.rpartition(".")[0] for path, _ in twin.named_modules())
