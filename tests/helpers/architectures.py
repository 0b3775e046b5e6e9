"""A tiny random model of every architecture: few layers, unequal sizes, windows shorter than the prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers.tiny_model import PAD

SIZES: dict[str, Any] = {
    "vocab_size": 122,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
HEAD, GPT = {"head_dim": 10}, {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
ROPE = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": 64}
WINDOW = 8  # tokens; the shortest prompt has 19
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
BY_TYPE = {"sliding_window": WINDOW, "layer_types": TYPES, "use_sliding_window": True}
GEMMA = HEAD | {"query_pre_attn_scalar": 12, "sliding_window": WINDOW, "layer_types": TYPES}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROUTED = {"num_local_experts": 4, "num_experts_per_tok": 2}
MULTIPLIED = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.4,
              "logits_scaling": 0.5}  # fmt: skip
LINEAR = ["linear_attention", "full_attention", "linear_attention"]
DELTA = {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 6, "linear_value_head_dim": 4,
         "layer_types": LINEAR}  # fmt: skip
MAMBA = {"layer_types": LINEAR, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 6, "mamba_n_groups": 1,
         "mamba_chunk_size": 8}  # fmt: skip
DENSE = {"num_local_experts": 0, "shared_intermediate_size": 48}
GEMMA_4 = HEAD | {"global_head_dim": 12, "sliding_window": WINDOW, "layer_types": [TYPES[0], *TYPES[1:2] * 2],
                  "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 122,
                  "final_logit_softcapping": 4.0}  # fmt: skip
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}
IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 7}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model_type, what differs from SIZES
    "Llama 1, 2 (MHA)": ("llama", HEAD | {"num_key_value_heads": 4}),
    "Llama 3 (GQA)": ("llama", HEAD | ROPE),
    "Llama (MQA)": ("llama", HEAD | {"num_key_value_heads": 1, "attention_bias": True}),
    "Mistral": ("mistral", HEAD | {"sliding_window": WINDOW}),
    "Qwen2, Qwen2.5": ("qwen2", BY_TYPE),
    "Qwen3": ("qwen3", HEAD | BY_TYPE),
    "Qwen3-Next": ("qwen3_next", HEAD | EXPERTS | DELTA | {"shared_expert_intermediate_size": 20}),
    "Qwen3.5": ("qwen3_5_text", HEAD | DELTA),
    "Qwen3.5 with images": ("qwen3_5", {"text_config": SIZES | HEAD | DELTA, "vision_config": {"depth": 1}}),
    "Gemma": ("gemma", HEAD),
    "Gemma-2": ("gemma2", GEMMA | CAPS),
    "Gemma-3": ("gemma3_text", GEMMA),
    "Gemma-3 with images": ("gemma3", {"text_config": SIZES | GEMMA, "vision_config": IMAGES | {"image_size": 14},
                                       "mm_tokens_per_image": 4, "initializer_range": 0.2}),
    "Gemma-4": ("gemma4_text", GEMMA_4),
    "Gemma-4 with shared keys": ("gemma4_text", GEMMA_4 | {"num_kv_shared_layers": 1}),
    "Gemma-4 with keys for values": ("gemma4_text", GEMMA_4 | {
        "layer_types": TYPES[:1] * 2 + TYPES[1:2], "attention_k_eq_v": True, "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 0}),
    "Gemma-4 with images": ("gemma4", {"text_config": SIZES | GEMMA_4, "vision_config": IMAGES | {
        "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 9}, "initializer_range": 0.2}),
    "OLMo-2": ("olmo2", {}),
    "OLMo": ("olmo", {"clip_qkv": 2.0}),
    "OLMo-3": ("olmo3", {"sliding_window": WINDOW, "layer_types": TYPES}),
    "OLMoE": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 2.0}),
    "SmolLM3": ("smollm3", BY_TYPE | {"no_rope_layers": [1, 0, 1]}),
    "Ministral": ("ministral", HEAD | BY_TYPE),
    "Ministral 3": ("ministral3", HEAD | {"sliding_window": WINDOW, "rope_parameters": YARN | {
        "original_max_position_embeddings": 8, "factor": 16.0, "llama_4_scaling_beta": 0.4}}),
    "Granite 3": ("granite", MULTIPLIED),
    "Granite 4 (dense)": ("granitemoehybrid", MULTIPLIED | DENSE | MAMBA | {"layer_types": [TYPES[1]] * 3}),
    "Granite 4 (dense, with Mamba)": ("granitemoehybrid", MULTIPLIED | DENSE | MAMBA),
    "GLM-4 (9B, 2024)": ("glm", HEAD),
    "GLM-4 (0414)": ("glm4", HEAD),
    "Apertus": ("apertus", ROPE),
    "Seed-OSS": ("seed_oss", HEAD | {"attention_out_bias": True}),
    "ERNIE 4.5": ("ernie4_5", HEAD | {"use_bias": True}),
    "Hunyuan": ("hunyuan_v1_dense", HEAD | {"rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}}),
    "Nemotron": ("nemotron", HEAD),
    "gpt-oss": ("gpt_oss", HEAD | ROUTED | {"sliding_window": WINDOW, "layer_types": TYPES, "rope_parameters": YARN}),
    "StarCoder2": ("starcoder2", {"sliding_window": WINDOW}),
    "StableLM": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "Command R": ("cohere", {"use_qk_norm": True, "logit_scale": 0.7}),
    "Command R7B": ("cohere2", {"sliding_window": WINDOW, "layer_types": TYPES, "logit_scale": 0.7}),
    "Phi-1, Phi-2": ("phi", {}),
    "Phi-3": ("phi3", {"sliding_window": WINDOW}),
    "GPT-2": ("gpt2", GPT | {"initializer_range": 0.4}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-NeoX, serial": ("gpt_neox", {"use_parallel_residual": False}),
    "GPT-BigCode": ("gpt_bigcode", GPT | {"initializer_range": 0.4}),
    "GPT-BigCode (MHA)": ("gpt_bigcode", GPT | {"initializer_range": 0.4, "multi_query": False}),
    "Falcon 7B": ("falcon", {}),
    "Falcon 40B, 11B": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon, serial (MHA)": ("falcon", {"multi_query": False, "parallel_attn": False, "bias": True,
                                        "initializer_range": 0.3}),
    "GPT-J": ("gptj", GPT | {"rotary_dim": 4}),
    "OPT": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "Mixtral": ("mixtral", HEAD | ROUTED | {"sliding_window": WINDOW}),
    "Qwen2-MoE": ("qwen2_moe", BY_TYPE | EXPERTS | {"shared_expert_intermediate_size": 20}),
    "Qwen3-MoE": ("qwen3_moe", HEAD | EXPERTS | {"sliding_window": WINDOW, "use_sliding_window": True}),
}  # fmt: skip
QUICK = ("Llama 3 (GQA)", "Gemma-2", "OLMo-2", "Phi-3", "GPT-2", "GPT-NeoX", "GPT-J", "OPT", "Qwen2-MoE")
"""One of each kind, for the tests that are run every time."""
MHA = ("gpt2", "gpt_neox", "gptj", "opt", "falcon")  # whose configurations know no key heads of their own
NAMES = {  # what other configurations call the sizes
    "gpt2": ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
    "gpt_bigcode": ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
    "gptj": ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
    "gemma3": (),
    "gemma4": (),
    "qwen3_5": (),
}


def every() -> list[Any]:
    """All architectures as a test's parameters; those not of QUICK are slow."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]


def configuration(name: str, **changes: Any) -> Any:
    """The tiny configuration of that architecture, with some values changed."""
    kind, own = ARCHITECTURES[name]
    known = NAMES.get(kind, [key for key in SIZES if key != "num_key_value_heads" or kind not in MHA])
    return AutoConfig.for_model(kind, **{key: SIZES[key] for key in known} | own | changes)


def hf_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model of that architecture; its norms and biases are random too, so that none can be forgotten."""
    torch.manual_seed(seed)
    config = configuration(name, **changes)
    config.tie_word_embeddings = False
    model: Any = AutoModelForCausalLM.from_config(config)
    for key, parameter in model.named_parameters():
        if key.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.3
    return model.to(dtype).eval().requires_grad_(False)
