"""Chunk sizes from a memory budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil

from nnsight_et.models.catalog import Shape

DEFAULT_BYTES = 2 << 30


@dataclass(frozen=True)
class Chunks:
    """How much goes through the model at once. Numbers agree to rounding whatever this is; bytes only if it is kept."""

    examples: int = 50  # prompts of one captured batch, and of one stored cell
    tokens: int = 1 << 16  # of one pass: examples x variants x live tokens
    branch_tokens: int = 256  # of variants side by side in one row; past that they become rows
    kept: int = 1 << 12  # prompts whose captures may be in memory at the same time

    def variants(self, examples: int, live: int) -> int:
        """How many variants of `examples` prompts with `live` recomputed tokens each go through in one pass."""
        return max(1, self.tokens // (examples * live))

    def plan_passes(self, variants: int, examples: int, live: int, copies: int = 1) -> list[tuple[int, int, int]]:
        """How variants, each `copies` times, go through the model: of each pass (variants, rows, branches).

        Branches stand side by side in a row; rows times branches may be a few more than the variants.
        """
        passes, step = [], max(1, self.variants(examples, live) // copies)
        for first in range(0, variants, step):
            count = min(step, variants - first)
            rows = ceil(count * live / max(self.branch_tokens, live))
            passes.append((count, rows, ceil(count / rows)))
        return passes

    def to_dict(self) -> dict[str, int]:
        """The same as plain data."""
        return asdict(self)


def kept_per_token(shape: Shape, itemsize: int) -> int:
    """Bytes that a captured prompt keeps of each token: every layer's keys, values, residual and head outputs."""
    heads = shape.n_heads * shape.d_head
    return itemsize * shape.n_layers * (2 * shape.n_kv_heads * shape.d_head + shape.d_model + heads)


def widest_per_token(shape: Shape, itemsize: int) -> int:
    """Bytes that a token takes at the widest point of a layer: MLP, norms, heads."""
    return itemsize * (3 * shape.d_mlp + 8 * shape.d_model + 4 * shape.n_heads * shape.d_head)


def logits_per_token(shape: Shape) -> int:
    """Bytes that a token takes whose logits are read: in fp32, with their softmax."""
    return 10 * shape.vocabulary


def chunk_bytes(shape: Shape, itemsize: int, prompt_tokens: int, chosen: Chunks) -> int:
    """Bytes of activations that one chunk of work takes: its captured prompts, and the larger of its passes."""
    captured, logits = chosen.examples * prompt_tokens, logits_per_token(shape)
    widest = widest_per_token(shape, itemsize)
    at_once = max(captured * widest + chosen.examples * logits, chosen.tokens * (widest + logits))
    return captured * kept_per_token(shape, itemsize) + at_once


def chunks(shape: Shape, itemsize: int, prompt_tokens: int, memory: int | None, read: int = 1) -> Chunks:
    """The chunk sizes whose activations of `itemsize` bytes stay within `memory` bytes, for prompts of that length.

    Counted per token: the widest point of a layer, and what a captured prompt keeps; and the logits, of a captured
    prompt for the `read` tokens where they are read, in a pass for each token.
    """
    widest, logits = widest_per_token(shape, itemsize), logits_per_token(shape)
    passing, kept = widest + logits, kept_per_token(shape, itemsize)
    budget = memory or DEFAULT_BYTES
    examples = max(1, min(50, budget // 4 // (prompt_tokens * (kept + widest) + read * logits)))
    return Chunks(
        examples=examples,
        tokens=max(1, min(1 << 16, budget // 2 // passing)),
        kept=min(1 << 12, budget // 4 // (prompt_tokens * kept)),
    )
