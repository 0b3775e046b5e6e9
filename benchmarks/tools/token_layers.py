"""How much goes through models, counted where MLPs put out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook


@contextmanager
def counted_token_layers() -> Iterator[list[int]]:
    """Tokens that pass through an MLP, in a list of one number; skipped modules do not count."""
    count = [0]

    def add(module: torch.nn.Module, _: Any, output: Any) -> None:
        if type(module).__name__.endswith("MLP") and isinstance(output, Tensor):
            count[0] += output.shape[:-1].numel()

    hook = register_module_forward_hook(add)
    try:
        yield count
    finally:
        hook.remove()
