"""Chunk sizes from a memory budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nnsight_et.models.model import Model

DEFAULT_BYTES = 2 << 30


@dataclass(frozen=True)
class Chunks:
    """How much goes through the model at once. Numbers agree to rounding whatever this is; bytes only if it is kept."""

    examples: int = 50  # prompts of one captured batch, and of one stored cell
    tokens: int = 1 << 16  # of one pass: examples x variants x live tokens
    branch_tokens: int = 256  # of variants side by side in one row; past that they become rows

    def variants(self, examples: int, live: int) -> int:
        """How many variants of `examples` prompts with `live` recomputed tokens each go through in one pass."""
        return max(1, self.tokens // (examples * live))

    def to_dict(self) -> dict[str, int]:
        """The same as plain data."""
        return asdict(self)


def chunks(model: Model, prompt_tokens: int, memory: int | None) -> Chunks:
    """The chunk sizes whose activations stay within `memory` bytes beside the weights, for prompts of that length.

    Counted per token: the widest point of a layer (MLP, norms, heads), the logits in fp32 with their softmax; and for a
    captured prompt every layer's keys, values and residual.
    """
    config, size = model.nn.config, model.dtype.itemsize
    heads = model.n_heads * model.d_head
    passing = size * (3 * config.intermediate_size + 8 * config.hidden_size + 4 * heads) + 10 * config.vocab_size
    kept = size * model.n_layers * (2 * model.n_kv_heads * model.d_head + config.hidden_size + heads)
    budget = memory or DEFAULT_BYTES
    examples = max(1, min(50, budget // 4 // (prompt_tokens * (kept + passing))))
    return Chunks(examples=examples, tokens=max(1, min(1 << 16, budget // 2 // passing)))
