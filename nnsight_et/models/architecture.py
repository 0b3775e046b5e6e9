"""What there is to say about an architecture: where the residual, z, q, k, v and the attention output are.

models/families.py says it of each. Nothing else in the package knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nnsight_et.models.named import Shape


@dataclass(frozen=True)
class Projection:
    """The module whose output has the queries, keys or values, and how they lie in it."""

    path: str
    packed: Literal["alone", "blocks", "per head"] = "alone"
    """alone: the output is nothing else. blocks: all queries, then all keys, then all values. per head: the query, key
    and value of the first head, then of the second, ..."""
    norm: str | None = None
    """A norm over all heads at once, if there is one: queries or keys are read after it, where a head's are its own."""

    @property
    def site(self) -> str:
        """The path of the module after which they are read and replaced."""
        return self.norm or self.path


@dataclass(frozen=True)
class Requirement:
    """What a configuration must say for a model to be of its architecture: `key` is `value`, or what `same_as` is."""

    key: str
    why: str
    value: Any = None
    same_as: str | None = None

    def is_met(self, config: Any) -> bool:
        """Whether it does; a configuration without the key does, and None is as good as False."""
        wanted = self.accepted_value(config)
        found = getattr(config, self.key, wanted)
        return found == wanted or not (found or wanted)

    def accepted_value(self, config: Any) -> Any:
        """The value of `key` that is accepted."""
        return getattr(config, self.same_as) if self.same_as else self.value


@dataclass(frozen=True)
class Experts:
    """A routed MLP: the names of its sizes in the configuration."""

    count: str
    width: str
    shared: str | None = None  # the width of an MLP that every token passes through as well


@dataclass(frozen=True)
class Architecture:
    """Attribute paths of a decoder-only model's parts; those of a layer's parts start at the layer."""

    embeddings: tuple[str, ...]  # their outputs add up to the residual that enters the first layer
    layers: str
    attention: str
    query: Projection
    key: Projection
    value: Projection
    attention_out: str  # its input is z, the heads' outputs side by side
    mlp: str
    unembedding: str
    attention_norm: str | None = None  # what attention gives passes through it before it is added to the residual
    mlp_norm: str | None = None
    layer_gave_tuple: bool = False  # before transformers 5.24, with the residual as its first entry
    parallel: bool | str = False  # MLPs see no attention of their own layer; or the configuration's key that says so
    mlp_sees: Literal["prompts", "tokens"] = "prompts"  # [batch, seq, d] or [batch * seq, d]
    position_table: bool = False  # positions are looked up, and there are max_position_embeddings of them
    masks: Literal["causal", "sliding", "by layer type"] = "causal"  # which attention masks the model makes
    implementations: tuple[str, ...] = ("sdpa", "eager")  # of attention
    d_mlp: str = "intermediate_size"  # its name in the configuration, where None means 4 d_model
    experts: Experts | None = None
    needs: tuple[Requirement, ...] = ()
    notes: tuple[str, ...] = ()  # what a reader of its results should know

    @property
    def decoder(self) -> str:
        """The path of the module that runs the layers."""
        return self.layers.rpartition(".")[0]

    def projection(self, via: str) -> Projection:
        """Where the `via` ("query", "key" or "value") of the heads comes from."""
        return {"query": self.query, "key": self.key, "value": self.value}[via]

    def longest(self, config: Any) -> int | None:
        """How many tokens a prompt can have; None where there is no end, as with rotations of queries and keys."""
        return config.max_position_embeddings if self.position_table else None

    def windows(self, config: Any) -> tuple[int | None, ...]:
        """Per layer how many tokens back, itself included, a token sees; None: all of them."""
        count, window = config.num_hidden_layers, getattr(config, "sliding_window", None) or None
        if self.masks == "causal":
            return (None,) * count
        if self.masks == "sliding":
            return (window,) * count
        return tuple(window if kind == "sliding_attention" else None for kind in config.layer_types)

    def shape(self, config: Any) -> Shape:
        """The sizes in a configuration of this architecture."""
        heads, width = config.num_attention_heads, getattr(config, self.d_mlp) or 4 * config.hidden_size
        of_all = 0
        if self.experts:
            each = getattr(config, self.experts.width)
            shared = getattr(config, self.experts.shared) if self.experts.shared else 0
            width = each * config.num_experts_per_tok + shared
            of_all = each * getattr(config, self.experts.count) + shared
        return Shape(
            n_layers=config.num_hidden_layers,
            n_heads=heads,
            n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            d_head=getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1),
            d_model=config.hidden_size,
            d_mlp=width,
            vocabulary=config.vocab_size,
            d_experts=of_all,
            parallel=bool(getattr(config, self.parallel) if isinstance(self.parallel, str) else self.parallel),
        )
