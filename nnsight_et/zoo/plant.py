"""A Llama that is written by hand: an empty one, and how weights are put into its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nnsight_et.core.circuit import Head
from nnsight_et.zoo.layout import D_MODEL, SCALE, SEGMENTS
from nnsight_et.zoo.phases import D_HEAD, THETA
from nnsight_et.zoo.roles import HeadWeights
from nnsight_et.zoo.tokenizer import vocabulary

N_HEADS = 8


@dataclass(frozen=True)
class PlantedHead:
    """One hand-written head: its role, how much it writes (below 0: against its group), how sure its attention is."""

    head: Head
    role: str
    strength: float = 1.0
    sharpness: float = 1.0


LAYER_0 = tuple(PlantedHead(Head(0, segment), f"segment {segment}") for segment in range(SEGMENTS))


def layers_of(model: LlamaForCausalLM) -> list[Any]:
    """The model's layers, first to last."""
    return list(model.model.layers)


def blank_model(n_layers: int, d_mlp: int, n_kv_heads: int = N_HEADS) -> LlamaForCausalLM:
    """A small Llama whose heads and MLPs write nothing."""
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=D_MODEL,
        intermediate_size=d_mlp,
        num_hidden_layers=n_layers,
        num_attention_heads=N_HEADS,
        num_key_value_heads=n_kv_heads,
        head_dim=D_HEAD,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
    return model


def write_weights(model: LlamaForCausalLM, planted_head: PlantedHead, weights: HeadWeights) -> None:
    """Write these weights as the head's; ValueError if a head of another key or value shares its kv head."""
    layer, index = planted_head.head
    attention, rows = layers_of(model)[layer].self_attn, slice(D_HEAD * index, D_HEAD * (index + 1))
    shared = index * (model.config.num_key_value_heads or N_HEADS) // N_HEADS
    kv_rows = slice(D_HEAD * shared, D_HEAD * (shared + 1))
    for weight, own in ((attention.k_proj.weight, weights.key), (attention.v_proj.weight, weights.value)):
        if weight[kv_rows].any() and not torch.equal(weight[kv_rows], own):
            raise ValueError(f"{planted_head.head} shares kv head {shared} with a head of another key or value")
        weight[kv_rows] = own
    attention.q_proj.weight[rows] = weights.query * planted_head.sharpness
    attention.o_proj.weight[:, rows] = weights.output * planted_head.strength / SCALE
