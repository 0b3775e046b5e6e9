"""Planted models: Llamas written by hand, so that the circuit is known before any method looks for it.

The mechanism is the paper's (§4.1). Layer 0 writes at every token which segment it stands in. D (structure_reader)
copies the object's segment to the label; C (position_detector) finds the earlier mention of the query label and takes
its segment; B (position_transmitter) brings it to the last token; A (value_fetcher) looks for an object in that
segment and copies it to the output. The MLPs do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.zoo.forward import layers_of
from nnsight_et.zoo.layout import D_MODEL, SCALE, SEGMENTS, answer_directions, token_embeddings
from nnsight_et.zoo.phases import D_HEAD, THETA
from nnsight_et.zoo.roles import HeadWeights, role_weights
from nnsight_et.zoo.tokenizer import vocabulary, word_tokenizer

N_HEADS = 8
GROUPS = {
    "value_fetcher": "last",
    "position_transmitter": "last",
    "position_detector": "query_label",
    "structure_reader": "previous_query_label",
}


@dataclass(frozen=True)
class PlantedHead:
    """One hand-written head: its role, how much it writes (below 0: against its group), how sure its attention is."""

    head: Head
    role: str
    strength: float = 1.0
    sharpness: float = 1.0


@dataclass(frozen=True)
class Plant:
    """A hand-written model, its tokenizer, and what a method that finds circuits has to find."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    truth: Circuit


LAYER_0 = tuple(PlantedHead(Head(0, segment), f"segment {segment}") for segment in range(SEGMENTS))
SMALLEST = (
    *LAYER_0,
    PlantedHead(Head(1, 0), "structure_reader"),
    PlantedHead(Head(2, 0), "position_detector"),
    PlantedHead(Head(3, 0), "position_transmitter"),
    PlantedHead(Head(4, 0), "value_fetcher", 0.5),
    PlantedHead(Head(4, 1), "value_fetcher", 0.5),
)


def planted(
    heads: Sequence[PlantedHead] = SMALLEST, n_layers: int = 5, seed: int = 0, contrast: float = 12.0, d_mlp: int = 32
) -> Plant:
    """The plant with these heads; `contrast` is the logit of the right answer, before the attention's losses."""
    model = blank_model(n_layers, d_mlp)
    embeddings = token_embeddings(seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.copy_(embeddings * answer_directions() * contrast / SCALE)
        for planted_head in heads:
            write_head(model, planted_head, seed)
    return Plant(model.eval(), word_tokenizer(), truth(heads))


def truth(heads: Sequence[PlantedHead]) -> Circuit:
    """The planted heads by group, the strongest first."""

    def members(role: str) -> tuple[Head, ...]:
        return tuple(h.head for h in sorted(heads, key=lambda h: -h.strength) if h.role == role)

    return Circuit(tuple(HeadGroup(role, at, members(role)) for role, at in GROUPS.items()))


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


def write_head(model: LlamaForCausalLM, planted_head: PlantedHead, seed: int) -> None:
    """Write one head's weights into the model."""
    layer, index = planted_head.head
    write_weights(model, planted_head, role_weights(planted_head.role, seed + N_HEADS * layer + index))


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
