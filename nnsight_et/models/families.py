"""The architectures, one entry per model_type of Hugging Face's configurations: a new one is one more entry here.

An entry says where the residual, z, q, k, v and the attention output are. Nothing else in the package knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.catalog import Shape


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


def named_kv_heads(config: Any) -> int | None:
    """How many key heads there are by the name that most configurations have for it."""
    return getattr(config, "num_key_value_heads", None)


def falcon_kv_heads(config: Any) -> int:
    """Falcon's, which goes by the first of three ways that its configuration asks for."""
    return 1 if config.multi_query and not config.new_decoder_architecture else config.num_kv_heads


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
            n_kv_heads=self.kv_heads(config) or heads,
            d_head=getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1),
            d_model=config.hidden_size,
            d_mlp=width,
            vocabulary=config.vocab_size,
            d_experts=of_all,
            parallel=self.parallel
            if isinstance(self.parallel, bool)
            else any(getattr(config, key) for key in self.parallel),
        )


LLAMA = Architecture(
    embeddings=("model.embed_tokens",),
    layers="model.layers",
    attention="self_attn",
    query=Projection("self_attn.q_proj"),
    key=Projection("self_attn.k_proj"),
    value=Projection("self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    mlp="mlp",
    unembedding="lm_head",
)
HEAD_NORMS = "queries and keys are read before the norms each head has for them"
HEAD_NORMS_IF = "where it has norms of queries and keys, they are read before"
NORM_OVER_ALL = "queries and keys are read after their norm, which runs over all heads at once"
SINKS = "part of each head's attention goes to no token: weights of a row add up to less than one"
POST_NORMS = "attention and MLP pass through a norm before they are added: heads write side by side before it"
ROUTED = "MLPs are routed: a patch that moves a token to other experts has their effect too"
PARALLEL = "where blocks are parallel, a layer's MLP does not see the same layer's attention"
ALIBI = "its positions are biases of attention scores, made from a mask of whole prompts (ALiBi)"
WINDOWS = "where the configuration has a sliding window, a token sees no further back than that"
GEMMA2 = replace(
    LLAMA,
    attention_norm="post_attention_layernorm",
    mlp_norm="post_feedforward_layernorm",
    masks="by layer type",
    implementations=("eager",),
    needs=(Requirement("use_bidirectional_attention", "its tokens see later ones", False),),
    notes=(POST_NORMS, WINDOWS, "scores and logits are soft-capped by the model itself"),
)
GEMMA3 = replace(
    GEMMA2,
    implementations=LLAMA.implementations,
    notes=(POST_NORMS, WINDOWS, HEAD_NORMS),
)
GEMMA3_IMAGES = replace(
    GEMMA3,
    embeddings=("model.language_model.embed_tokens",),
    layers="model.language_model.layers",
    notes=(*GEMMA3.notes, "its text model, with its image model beside it in memory"),
)
QWEN2 = replace(LLAMA, masks="by layer type", notes=(WINDOWS,))
OLMO2 = replace(
    LLAMA,
    query=Projection("self_attn.q_proj", norm="self_attn.q_norm"),
    key=Projection("self_attn.k_proj", norm="self_attn.k_norm"),
    attention_norm="post_attention_layernorm",
    mlp_norm="post_feedforward_layernorm",
    notes=(POST_NORMS, NORM_OVER_ALL),
)
GPT2 = Architecture(
    embeddings=("transformer.wte", "transformer.wpe"),
    layers="transformer.h",
    attention="attn",
    query=Projection("attn.c_attn", "blocks"),
    key=Projection("attn.c_attn", "blocks"),
    value=Projection("attn.c_attn", "blocks"),
    attention_out="attn.c_proj",
    mlp="mlp",
    unembedding="lm_head",
    d_mlp="n_inner",
    position_table=True,
    needs=(Requirement("add_cross_attention", "it also attends to an encoder", False),),
)
NEOX = Architecture(
    embeddings=("gpt_neox.embed_in",),
    layers="gpt_neox.layers",
    attention="attention",
    query=Projection("attention.query_key_value", "per group"),
    key=Projection("attention.query_key_value", "per group"),
    value=Projection("attention.query_key_value", "per group"),
    attention_out="attention.dense",
    mlp="mlp",
    unembedding="lm_head",
    parallel=("use_parallel_residual",),
    notes=(PARALLEL,),
)
GPTJ = replace(
    LLAMA,
    embeddings=("transformer.wte",),
    layers="transformer.h",
    attention="attn",
    query=Projection("attn.q_proj"),
    key=Projection("attn.k_proj"),
    value=Projection("attn.v_proj"),
    attention_out="attn.out_proj",
    parallel=True,
    layer_gives_tuple="before 5.24",
    implementations=("eager",),
    d_mlp="n_inner",
    position_table=True,
    notes=(PARALLEL,),
)
OPT = replace(
    LLAMA,
    embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    layers="model.decoder.layers",
    attention_out="self_attn.out_proj",
    mlp="fc2",
    mlp_sees="tokens",
    d_mlp="ffn_dim",
    position_table=True,
    needs=(
        Requirement("do_layer_norm_before", "its residual passes through norms (opt-350m; the other sizes work)", True),
        Requirement("word_embed_proj_dim", "its embedding has another width than its layers", same_as="hidden_size"),
    ),
    notes=("queries are read before they are scaled",),
)
GRANITE = replace(
    LLAMA,
    embedding_scale="embedding_multiplier",
    residual_scale="residual_multiplier",
    notes=("what attention and MLP give is read before it is multiplied by residual_multiplier and added",),
)
FALCON = replace(
    LLAMA,
    embeddings=("transformer.word_embeddings",),
    layers="transformer.h",
    attention="self_attention",
    query=Projection("self_attention.query_key_value", "per group"),
    key=Projection("self_attention.query_key_value", "per group"),
    value=Projection("self_attention.query_key_value", "per group"),
    attention_out="self_attention.dense",
    parallel=("new_decoder_architecture", "parallel_attn"),
    layer_gives_tuple=True,
    kv_heads=falcon_kv_heads,
    d_mlp="ffn_hidden_size",
    needs=(Requirement("alibi", ALIBI, False),),
    notes=(PARALLEL,),
)

FAMILIES: dict[str, Architecture] = {  # by the configuration's model_type
    "llama": LLAMA,
    "mistral": replace(LLAMA, masks="sliding", notes=(WINDOWS,)),
    "mixtral": replace(
        LLAMA, masks="sliding", experts=Experts("num_local_experts", "intermediate_size"), notes=(ROUTED, WINDOWS)
    ),
    "qwen2": QWEN2,
    "qwen2_moe": replace(
        QWEN2,
        experts=Experts("num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"),
        notes=(ROUTED, WINDOWS),
    ),
    "qwen3": replace(QWEN2, notes=(HEAD_NORMS, WINDOWS)),
    "qwen3_moe": replace(
        LLAMA,
        masks="sliding",
        experts=Experts("num_experts", "moe_intermediate_size"),
        notes=(HEAD_NORMS, ROUTED, WINDOWS),
    ),
    "gemma": replace(LLAMA, needs=(Requirement("use_bidirectional_attention", "its tokens see later ones", False),)),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3_IMAGES,
    "olmo": replace(LLAMA, notes=("where it clips queries, keys and values, they are read before",)),
    "olmo2": OLMO2,
    "olmo3": replace(OLMO2, masks="by layer type", notes=(*OLMO2.notes, WINDOWS)),
    "olmoe": replace(
        LLAMA,
        query=OLMO2.query,
        key=OLMO2.key,
        experts=Experts("num_experts", "intermediate_size"),
        notes=(NORM_OVER_ALL, ROUTED),
    ),
    "smollm3": QWEN2,
    "ministral": QWEN2,
    "ministral3": replace(LLAMA, masks="sliding", notes=(WINDOWS, "queries are read before they grow with the place")),
    "granite": GRANITE,
    "glm": LLAMA,
    "glm4": replace(
        LLAMA, attention_norm="post_self_attn_layernorm", mlp_norm="post_mlp_layernorm", notes=(POST_NORMS,)
    ),
    "apertus": replace(LLAMA, notes=(HEAD_NORMS,)),
    "seed_oss": LLAMA,
    "ernie4_5": LLAMA,
    "hunyuan_v1_dense": replace(LLAMA, notes=("queries and keys are read before rotations, and norms, of each head",)),
    "nemotron": LLAMA,
    "gpt_oss": replace(
        QWEN2,
        mlp_gives_tuple=True,
        implementations=("eager",),
        experts=Experts("num_local_experts", "intermediate_size"),
        notes=(SINKS, ROUTED, WINDOWS),
    ),
    "starcoder2": replace(LLAMA, masks="sliding", notes=(WINDOWS,)),
    "stablelm": replace(
        LLAMA,
        parallel=("use_parallel_residual",),
        notes=(HEAD_NORMS_IF, PARALLEL),
    ),
    "cohere": replace(LLAMA, parallel=True, notes=(HEAD_NORMS_IF, PARALLEL)),
    "cohere2": replace(QWEN2, parallel=True, notes=(WINDOWS, PARALLEL)),
    "phi": replace(LLAMA, attention_out="self_attn.dense", parallel=True, notes=(PARALLEL,)),
    "phi3": replace(
        LLAMA,
        query=Projection("self_attn.qkv_proj", "blocks"),
        key=Projection("self_attn.qkv_proj", "blocks"),
        value=Projection("self_attn.qkv_proj", "blocks"),
        masks="sliding",
        notes=(WINDOWS,),
    ),
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "gptj": GPTJ,
    "gpt_bigcode": replace(
        GPT2,
        query=Projection("attn.c_attn", "per group"),
        key=Projection("attn.c_attn", "per group"),
        value=Projection("attn.c_attn", "per group"),
    ),
    "falcon": FALCON,
    "opt": OPT,
}  # fmt: skip

LATENT = "its keys and values come from a shared compressed vector, not from a projection per head"
REFUSED: dict[str, str] = {
    "bloom": ALIBI,
    "mpt": ALIBI,
    "gpt_neo": "its attention makes masks of its own from where a token stands in memory",
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "mamba": "it has no attention heads",
    "mamba2": "it has no attention heads",
    "recurrent_gemma": "most of its layers have no attention heads",
    "llama4": "its attention is cut into chunks of a prompt",
    "llama4_text": "its attention is cut into chunks of a prompt",
    "gemma3n": "what enters a layer is not the sum of what was written before it",
    "gemma3n_text": "what enters a layer is not the sum of what was written before it",
}


def architecture(config: Any, where: str) -> Architecture:
    """The architecture of a configuration; UnsupportedModel naming `where` if its models cannot be run exactly."""
    kind = config.model_type
    if kind in REFUSED:
        found = f"{where}: architecture '{kind}' cannot be run exactly: {REFUSED[kind]}"
        raise UnsupportedModel(f"{found}; accepted: {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        raise UnsupportedModel(f"{where}: architecture '{kind}' is not known; accepted: {', '.join(FAMILIES)}")
    parts, text = FAMILIES[kind], config.get_text_config()
    for need in parts.needs:
        if not need.is_met(text):
            found = f"{need.key} is {getattr(text, need.key)!r}, so {need.why}"
            wanted = f"{need.key} {need.accepted_value(text)!r}"
            raise UnsupportedModel(f"{where}: architecture '{kind}': {found}; accepted: {wanted}")
    return parts
