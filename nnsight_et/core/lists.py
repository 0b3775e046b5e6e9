"""Tensors as lists of Python's own numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def to_list(values: Tensor) -> list[Any]:
    """The numbers of a tensor of one dimension or more as plain ones, nested as its dimensions are."""
    return values.tolist()
