"""What an entry of families.py can say of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nnsight_et.core.circuit import Via
from nnsight_et.models.catalog import Shape

Lacking = dict[int, tuple[tuple[Via, ...], str]]
"""Layer -> which of queries, keys and values its heads do not have to themselves, and why."""


@dataclass(frozen=True)
class Projection:
    """The module whose output has the queries, keys or values, and how they lie in it."""

    path: str
    packed: Literal["alone", "blocks", "per group", "gated"] = "alone"
    """alone: the output is nothing else. blocks: all queries, then all keys, then all values. per group: the queries
    that share the first key head, its key and its value, then those of the second, ... gated: of each head its query,
    then what gates its output"""
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
class Recurrence:
    """What stands in attention's place in layers of the kind "linear_attention", and has no keys to look back at."""

    module: str
    out: str  # its input is z, in as many slices as attention has heads: each is one or several of its own
    heads: str  # what the configuration calls the number of its own, and how wide they are
    width: str


def alike(config: Any) -> list[Any]:
    """What a configuration says of each layer, where layers do not differ."""
    return [config] * config.num_hidden_layers


def named_kv_heads(config: Any) -> int | None:
    """How many key heads there are by the name that most configurations have for it."""
    return getattr(config, "num_key_value_heads", None)


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
    layer_gives_tuple: bool | Literal["before 5.24"] = False  # with the residual as its first entry
    parallel: bool | tuple[str, ...] = False  # MLPs see no attention of their own layer; or the keys that can say so
    mlp_sees: Literal["prompts", "tokens"] = "prompts"  # [batch, seq, d] or [batch * seq, d]
    mlp_gives_tuple: bool = False  # with what it adds as its first entry
    embedding_scale: str | None = None  # the configuration's key for what embeddings are multiplied by
    residual_scale: str | None = None  # and what attention and MLP give when they are added
    position_table: bool = False  # positions are looked up, and there are max_position_embeddings of them
    masks: Literal["causal", "sliding", "by layer type"] = "causal"  # which attention masks the model makes
    implementations: tuple[str, ...] = ("sdpa", "eager")  # of attention
    kv_heads: Callable[[Any], int | None] = named_kv_heads  # their number by the configuration; None: as many as heads
    d_mlp: str = "intermediate_size"  # its name in the configuration, where None means 4 d_model
    experts: Experts | None = None
    recurrence: Recurrence | None = None
    layer_configs: Callable[[Any], list[Any]] = alike  # where the sizes of heads are said, layer by layer
    also_adds: str | None = None  # a norm whose output a layer adds to the residual too, where it is there
    layer_scale: str | None = None  # a layer's tensor that multiplies what leaves it
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

    def recurrent(self, config: Any) -> tuple[int, ...]:
        """The layers with a recurrence in attention's place."""
        kinds = config.layer_types if self.recurrence else ()
        return tuple(layer for layer, kind in enumerate(kinds) if kind == "linear_attention")

    def storing(self, config: Any) -> int:
        """The lowest layer whose keys and values later layers have instead of their own; without one, past the last."""
        own = config.num_hidden_layers - (getattr(config, "num_kv_shared_layers", None) or 0)
        if own == config.num_hidden_layers:
            return own
        return min(own - 1 - config.layer_types[:own][::-1].index(kind) for kind in set(config.layer_types[own:]))

    def lacking(self, config: Any) -> Lacking:
        """What heads of some layers do not have to themselves."""
        found: Lacking = {}
        for layer in self.recurrent(config):
            found[layer] = ("query", "key", "value"), "it is linear attention, and patched by its heads' outputs alone"
        count, shared = config.num_hidden_layers, getattr(config, "num_kv_shared_layers", None) or 0
        for layer in range(count):
            full = self.masks == "by layer type" and config.layer_types[layer] == "full_attention"
            if layer >= count - shared:
                found[layer] = ("key", "value"), "it has the keys and values of an earlier layer"
            elif full and getattr(config, "attention_k_eq_v", False):
                found[layer] = ("key", "value"), "one projection gives its keys and its values"
        return found

    def widths(self, config: Any) -> tuple[int, ...]:
        """Per layer how wide a head's output is."""
        heads = config.num_attention_heads
        widths = [getattr(one, "head_dim", None) or config.hidden_size // max(heads, 1) for one in self._layers(config)]
        for layer in self.recurrent(config):
            assert self.recurrence is not None
            own, width = getattr(config, self.recurrence.heads), getattr(config, self.recurrence.width)
            widths[layer] = own * width // heads
        return tuple(widths)

    def _layers(self, config: Any) -> list[Any]:
        return self.layer_configs(config) or [config]

    def shape(self, config: Any) -> Shape:
        """The sizes in a configuration of this architecture."""
        heads, width = config.num_attention_heads, getattr(config, self.d_mlp) or 4 * config.hidden_size
        of_all = 0
        if self.experts:
            each = getattr(config, self.experts.width)
            shared = getattr(config, self.experts.shared) if self.experts.shared else 0
            width = each * config.num_experts_per_tok + shared
            of_all = each * getattr(config, self.experts.count) + shared
        parallel = self.parallel
        return Shape(
            n_layers=config.num_hidden_layers,
            n_heads=heads,
            n_kv_heads=max(self.kv_heads(one) or heads for one in self._layers(config)),
            d_head=max(self.widths(config)),
            d_model=config.hidden_size,
            d_mlp=width,
            vocabulary=config.vocab_size,
            d_experts=of_all,
            parallel=parallel if isinstance(parallel, bool) else any(getattr(config, key) for key in parallel),
        )
