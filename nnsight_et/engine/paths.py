"""What path patching patches: a path from senders at one position to the inputs of heads there, or to the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nnsight_et.circuit import Head
from nnsight_et.models.model import Via

KvHeads = Literal["shared", "expanded"]


@dataclass(frozen=True)
class Path:
    """From a sender at position `at` into the `via` of receivers there, or, without receivers, into the logits.

    kv_heads matters where several query heads have one key and value head. shared: a receiver's key or value is that
    head's, and all its query heads see what is patched. expanded: the receivers alone see it, as if each query head had
    keys and values of its own.
    """

    at: str
    via: Via | None = None
    receivers: tuple[Head, ...] = ()
    kv_heads: KvHeads = "shared"

    def reaching(self, n_layers: int, n_heads: int) -> list[Head]:
        """The senders that can reach the end of the path, row-major: all, or those below the last receiver's layer."""
        end = max((head.layer for head in self.receivers), default=n_layers)
        return [Head(layer, index) for layer in range(end) for index in range(n_heads)]
