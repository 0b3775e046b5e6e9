"""Planted models: Llamas written by hand, so that the circuit is known before any method looks for it.

The mechanism is the paper's (§4.1). Layer 0 writes at every token which segment it stands in. D (structure_reader)
copies the object's segment to the label; C (position_detector) finds the earlier mention of the query label and takes
its segment; B (position_transmitter) brings it to the last token; A (value_fetcher) looks for an object in that
segment and copies it to the output. The MLPs do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.zoo.layout import D_MODEL, LAYOUT, N_TOKENS, SCALE, SEGMENT_TOKENS, answer_directions, token_embeddings
from nnsight_et.zoo.phases import D_HEAD, segment_phases
from nnsight_et.zoo.plant import (
    LAYER_0,
    N_HEADS,
    STEADIEST,
    STEADY,
    Carries,
    HeadWeights,
    Looks,
    PlantedHead,
    blank_model,
    copies,
    looks_back,
    matches,
    position_transmitter,
    prefers,
    structure_reader,
    write_weights,
)
from nnsight_et.zoo.tokenizer import word_tokenizer

GROUPS = {
    "value_fetcher": "last",
    "position_transmitter": "last",
    "position_detector": "query_label",
    "structure_reader": "previous_query_label",
}


@dataclass(frozen=True)
class Plant:
    """A hand-written model, its tokenizer, and what a method that finds circuits has to find."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    truth: Circuit


SMALLEST = (
    *LAYER_0,
    PlantedHead(Head(1, 0), "structure_reader"),
    PlantedHead(Head(2, 0), "position_detector"),
    PlantedHead(Head(3, 0), "position_transmitter"),
    PlantedHead(Head(4, 0), "value_fetcher", 0.5),
    PlantedHead(Head(4, 1), "value_fetcher", 0.5),
)


def make_plant(
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


def write_head(model: LlamaForCausalLM, planted_head: PlantedHead, seed: int) -> None:
    """Write one head's weights into the model."""
    layer, index = planted_head.head
    write_weights(model, planted_head, role_weights(planted_head.role, seed + N_HEADS * layer + index))


def role_weights(role: str, seed: int) -> HeadWeights:
    """The weights of a head of this role; the seed decides which part of the objects' code a value fetcher carries."""
    looks, carries = ROLES[role](seed) if role in ROLES else segment_counter(int(role.removeprefix("segment ")))
    return HeadWeights(*looks, *carries)


def segment_counter(segment: int) -> tuple[Looks, Carries]:
    """Looks at <s> from inside one segment and marks the tokens there with the segment's number."""
    phases = segment_phases(1 + SEGMENT_TOKENS * segment, SEGMENT_TOKENS, N_TOKENS)
    written = slice(LAYOUT.own_segment.start + segment, LAYOUT.own_segment.start + segment + 1)
    return looks_back(phases, LAYOUT.is_bos, 1.0), copies(LAYOUT.is_bos, written)


def position_detector(_: int) -> tuple[Looks, Carries]:
    """Looks from a label to the same label inside a segment and takes what D left there."""
    looks = matches(LAYOUT.labels, LAYOUT.labels, STEADY, 12.0)
    return prefers(looks, LAYOUT.own_segment, STEADY[-1], 6.0), copies(LAYOUT.object_segment, LAYOUT.queried_segment)


def value_fetcher(seed: int) -> tuple[Looks, Carries]:
    """Looks at the object in the wanted segment and takes 32 dims of its 40-dim code."""
    looks = matches(LAYOUT.wanted_segment, LAYOUT.own_segment, STEADIEST, 12.0)
    width = LAYOUT.objects.stop - LAYOUT.objects.start
    noise = torch.randn(width, D_HEAD, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise).Q  # [object dims, d_head]
    value, output = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_MODEL, D_HEAD)
    value[:, LAYOUT.objects], output[LAYOUT.objects] = basis.T, basis
    return prefers(looks, LAYOUT.is_object, STEADIEST[-1], 8.0), (value, output)


ROLES: dict[str, Callable[[int], tuple[Looks, Carries]]] = {
    "structure_reader": structure_reader,
    "position_detector": position_detector,
    "position_transmitter": position_transmitter,
    "value_fetcher": value_fetcher,
}
