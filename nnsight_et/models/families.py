"""The architectures, one entry per model_type of Hugging Face's configurations: a new one is one more entry here.

An entry says where the residual, z, q, k, v and the attention output are. Nothing else in the package knows.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.architecture import Architecture, Experts, Projection, Recurrence, Requirement


def falcon_kv_heads(config: Any) -> int:
    """Falcon's, which goes by the first of three ways that its configuration asks for."""
    return 1 if config.multi_query and not config.new_decoder_architecture else config.num_kv_heads


def gemma4_layers(config: Any) -> list[Any]:
    """The same of Gemma 4, whose heads are wider in layers with full attention."""
    differing = getattr(config, "per_layer_config", None)  # since transformers 5.20
    if differing is not None:
        return [differing[layer] for layer in range(config.num_hidden_layers)]
    wide = SimpleNamespace(head_dim=config.global_head_dim, num_key_value_heads=config.num_key_value_heads)
    return [wide if kind == "full_attention" else config for kind in config.layer_types]


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
HEAD_NORMS = "queries and keys are read before their per-head norms"
HEAD_NORMS_IF = "if it has norms for queries and keys, both are read before these norms"
NORM_OVER_ALL = "queries and keys are read after their norm, which runs over all heads at once"
SINKS = "part of each head's attention goes to no token, so the weights of a row add up to less than one"
POST_NORMS = "attention and MLP outputs pass through a norm before they are added, and heads write before that norm"
HYBRID = (
    "layers of linear attention are patched by their heads' outputs; their queries, keys and values, and knockout, are "
    "refused by layer"
)
GATED = "the gate of a head's output is recomputed, and is not part of its query"
ROUTED = "MLPs are routed: if a patch sends a token to other experts, that is part of its effect"
PARALLEL = "if blocks are parallel, a layer's MLP does not see the attention of its own layer"
ALIBI = "its positions are biases on attention scores (ALiBi), made from a mask of the whole prompt"
WINDOWS = "if the configuration has a sliding window, tokens see no further back than the window"
GEMMA2 = replace(
    LLAMA,
    attention_norm="post_attention_layernorm",
    mlp_norm="post_feedforward_layernorm",
    masks="by layer type",
    implementations=("eager",),
    needs=(Requirement("use_bidirectional_attention", "its tokens attend to later ones", False),),
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
    notes=(*GEMMA3.notes, "only its text model runs; its image model stays in memory"),
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
        Requirement("word_embed_proj_dim", "its embedding and its layers differ in width", same_as="hidden_size"),
    ),
    notes=("queries are read before they are scaled",),
)
GRANITE = replace(
    LLAMA,
    embedding_scale="embedding_multiplier",
    residual_scale="residual_multiplier",
    notes=("attention and MLP outputs are read before they are multiplied by residual_multiplier and added",),
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

DELTA_NET = Recurrence("linear_attn", "linear_attn.out_proj", "linear_num_value_heads", "linear_value_head_dim")
MAMBA = Recurrence("mamba", "mamba.out_proj", "mamba_n_heads", "mamba_d_head")
QWEN3_5 = replace(
    LLAMA,
    query=Projection("self_attn.q_proj", "gated"),
    recurrence=DELTA_NET,
    notes=(HYBRID, HEAD_NORMS, GATED),
)
GEMMA4 = replace(
    GEMMA3,
    layer_configs=gemma4_layers,
    also_adds="post_per_layer_input_norm",
    layer_scale="layer_scalar",
    needs=(
        Requirement("use_bidirectional_attention", "its tokens attend to later ones", None),
        Requirement("enable_moe_block", "its experts read the residual itself, and its MLP reads a norm of it", False),
    ),
    notes=(
        POST_NORMS,
        WINDOWS,
        HEAD_NORMS,
        "heads are wider in layers with full attention; the others are padded with zeros",
        "per-layer token embeddings are recomputed, like norms",
    ),
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
    "qwen3_next": replace(
        QWEN3_5,
        experts=Experts("num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"),
        notes=(*QWEN3_5.notes, ROUTED),
    ),
    "qwen3_5_text": QWEN3_5,
    "qwen3_5": QWEN3_5,  # its text model alone, without the one for images
    "gemma": replace(
        LLAMA, needs=(Requirement("use_bidirectional_attention", "its tokens attend to later ones", False),)
    ),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3_IMAGES,
    "gemma4_text": GEMMA4,
    "gemma4": replace(
        GEMMA4,
        embeddings=GEMMA3_IMAGES.embeddings,
        layers=GEMMA3_IMAGES.layers,
        notes=(*GEMMA4.notes, "only its text model runs; its image and audio models stay in memory"),
    ),
    "olmo": replace(LLAMA, notes=("if it clips queries, keys and values, they are read before clipping",)),
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
    "ministral3": replace(
        LLAMA, masks="sliding", notes=(WINDOWS, "queries are read before they are scaled by position")
    ),
    "granite": GRANITE,
    "granitemoehybrid": replace(
        GRANITE,
        mlp="shared_mlp",
        d_mlp="shared_intermediate_size",
        recurrence=MAMBA,
        needs=(Requirement("num_local_experts", "its experts are beside its MLP, in a module of their own", 0),),
        notes=(*GRANITE.notes, HYBRID),
    ),
    "glm": LLAMA,
    "glm4": replace(
        LLAMA, attention_norm="post_self_attn_layernorm", mlp_norm="post_mlp_layernorm", notes=(POST_NORMS,)
    ),
    "apertus": replace(LLAMA, notes=(HEAD_NORMS,)),
    "seed_oss": LLAMA,
    "ernie4_5": LLAMA,
    "hunyuan_v1_dense": replace(LLAMA, notes=("queries and keys are read before each head's rotations and norms",)),
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
    "gpt_neo": "its attention builds its own masks from a token's place in the cache",
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "mamba": "it has no attention heads",
    "mamba2": "it has no attention heads",
    "recurrent_gemma": "most of its layers have no attention heads",
    "llama4": "its attention is cut into chunks of a prompt",
    "llama4_text": "its attention is cut into chunks of a prompt",
    "gemma3n": "the input of a layer is not the sum of what earlier layers wrote",
    "gemma3n_text": "the input of a layer is not the sum of what earlier layers wrote",
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
    if layers := parts.recurrent(text):
        assert parts.recurrence is not None
        own, heads = getattr(text, parts.recurrence.heads), text.num_attention_heads
        if own % heads:
            found = f"layers {', '.join(map(str, layers))} are linear attention of {own} heads"
            raise UnsupportedModel(f"{where}: {found}; accepted: a multiple of attention's {heads}")
    return parts
