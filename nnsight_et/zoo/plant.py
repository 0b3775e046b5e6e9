"""A Llama that is written by hand: an empty one, what its heads compute, and how their weights are put in.

A head is where it looks (query and key weights) and what it carries (value and output weights). Every matrix is
[d_head, d_model] except the output's, [d_model, d_head]; a head reads the normed residual stream, which is SCALE times
what was written into it. Where there is nothing to find, heads of the models whose circuit is known (known.py) rest on
<s> and write nothing, so that a patched-in answer to another question leaves no answer instead of a guess.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from nnsight_et.core.circuit import Head
from nnsight_et.zoo.layout import CONSTANT, D_MODEL, LAYOUT, N_TOKENS, SCALE, SEGMENT_TOKENS, SEGMENTS
from nnsight_et.zoo.phases import D_HEAD, PAIRS, THETA, distance_phases, query_and_key, segment_phases
from nnsight_et.zoo.tokenizer import vocabulary

STEADY = tuple(range(6, PAIRS)) + tuple(range(PAIRS + 6, 2 * PAIRS))
"""The dims of a head that RoPE turns so slowly that they match content at any distance."""
STEADIEST = tuple(range(12, PAIRS)) + tuple(range(PAIRS + 12, 2 * PAIRS))
Looks = tuple[Tensor, Tensor]
Carries = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class HeadWeights:
    """query, key, value [d_head, d_model] and output [d_model, d_head] of one head."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def structure_reader(_: int) -> tuple[Looks, Carries]:
    """Looks 4 tokens back, from a label to its object, and takes the object's segment."""
    return looks_back(distance_phases(4, N_TOKENS), LAYOUT.constant, CONSTANT), copies(
        LAYOUT.own_segment, LAYOUT.object_segment
    )


def position_transmitter(_: int) -> tuple[Looks, Carries]:
    """Looks 2 tokens back, from the last token to the query label, and takes what C left there."""
    return looks_back(distance_phases(2, N_TOKENS), LAYOUT.constant, CONSTANT), copies(
        LAYOUT.queried_segment, LAYOUT.wanted_segment
    )


def looks_back(phases: Tensor, part: slice, size: float) -> Looks:
    """Query and key of a head whose score is that of the phases on tokens with `size` in `part`, and 0 on others."""
    query, key = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_HEAD, D_MODEL)
    q, k = query_and_key(phases)
    query[:, LAYOUT.constant] = q[:, None] / (CONSTANT * SCALE)
    key[:, part] = k[:, None] / (size * SCALE)
    return query, key


def matches(query_part: slice, key_part: slice, dims: tuple[int, ...], score: float) -> Looks:
    """Query and key of a head whose score is `score` times the product of what stands in the two parts."""
    query, key = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_HEAD, D_MODEL)
    width = query_part.stop - query_part.start
    size = math.sqrt(score * math.sqrt(D_HEAD)) / SCALE
    rows = torch.tensor(dims[:width])
    query[rows, query_part], key[rows, key_part] = size * torch.eye(width), size * torch.eye(width)
    return query, key


def prefers(looks: Looks, part: slice, dim: int, score: float) -> Looks:
    """The same head, which also gives `score` to every token with 1 anywhere in `part`; `dim` must be free.

    <s> looks at itself in layer 0, so it stands in every segment at once: what it would gain by that is taken away.
    """
    query, key = looks[0].clone(), looks[1].clone()
    size = math.sqrt(score * math.sqrt(D_HEAD))
    query[dim, LAYOUT.constant] = size / (CONSTANT * SCALE)
    key[dim, part] = size / SCALE
    key[dim, LAYOUT.is_bos] = -size / SCALE * (part.stop - part.start + 1)
    return query, key


def copies(read: slice, write: slice) -> Carries:
    """Value and output of a head that takes one part of the residual stream there into another part here."""
    value, output = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_MODEL, D_HEAD)
    width = read.stop - read.start
    value[:width, read], output[write, :width] = torch.eye(width), torch.eye(width)
    return value, output


WANTED_LABEL = slice(103, 121)
"""Written by a label transmitter, read at the last token: the label that is asked for."""
UNREAD, UNREAD_STEADY = slice(103, 121), (121, 122, 123)
"""Dims no head and no unembedding reads: what distractors write to, in models without WANTED_LABEL."""
ASIDE = slice(103, 110)
"""Where a transmitter writes what an MLP carries on, or a value fetcher the segment it found, for its backup."""
FOUND, RESTING, PASSED_OVER = 7.0, 10.0, 6.0
"""Attention scores: of a match, of <s>, and of what a head prefers without a match."""
MARKED, KEEN = 1.3, 2.0  # a mark outweighs what is wanted, and a backup without one is sure
EVEN = 2.0  # of every cosine dim of a key that heads with different phases share
LOUD = 3.0  # how much larger than anything else a distractor's output is


def known_weights(role: str, seed: int) -> HeadWeights:
    """The weights of a head of this role; the seed decides which part of the objects' code a head carries."""
    if role.startswith("segment "):
        looks, carries = segment_counter(int(role.removeprefix("segment ")))
    else:
        looks, carries = ROLES[role](seed)
    return HeadWeights(*looks, *carries)


def segment_counter(segment: int) -> tuple[Looks, Carries]:
    """Looks at <s> from inside one segment and marks the tokens there; key and value are those of every segment's."""
    phases = segment_phases(1 + SEGMENT_TOKENS * segment, SEGMENT_TOKENS, N_TOKENS)
    q, k = query_and_key(phases)
    query, key = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_HEAD, D_MODEL)
    query[:, LAYOUT.constant] = (q * k[:PAIRS].repeat(2) / EVEN)[:, None] / (CONSTANT * SCALE)
    key[:PAIRS, LAYOUT.is_bos] = EVEN / SCALE
    written = slice(LAYOUT.own_segment.start + segment, LAYOUT.own_segment.start + segment + 1)
    return (query, key), copies(LAYOUT.is_bos, written)


def position_detector(_: int) -> tuple[Looks, Carries]:
    """Looks from a label to the same label inside a segment and takes what D left there; rests if there is none."""
    looks = matches(LAYOUT.labels, LAYOUT.labels, STEADY, FOUND)
    value, output = copies(LAYOUT.object_segment, LAYOUT.queried_segment)
    value[:SEGMENTS, LAYOUT.is_bos] = -1  # <s> stands in every segment: nothing is taken from it
    return rests(looks, LAYOUT.own_segment, STEADY[-1]), (value, output)


def value_fetcher(seed: int) -> tuple[Looks, Carries]:
    """Looks at the object in the wanted segment and takes its code; rests if no segment is wanted."""
    query, key = matches(LAYOUT.wanted_segment, LAYOUT.own_segment, STEADIEST, FOUND)
    key[:, LAYOUT.is_bos] = -key[:, LAYOUT.own_segment].sum(-1, keepdim=True)  # <s> stands in every segment
    return rests((query, key), LAYOUT.is_object, STEADIEST[-1]), carries_objects(seed)


def part_fetcher(segments: slice) -> Callable[[int], tuple[Looks, Carries]]:
    """A value fetcher of these segments alone; rests if another one is wanted."""

    def role(seed: int) -> tuple[Looks, Carries]:
        (query, key), carries = value_fetcher(seed)
        others = torch.ones(SEGMENTS, dtype=torch.bool)
        others[segments] = False
        query[:, LAYOUT.wanted_segment][:, others] = 0
        return (query, key), carries

    return role


def value_fetcher_marking(seed: int) -> tuple[Looks, Carries]:
    """A value fetcher that carries fewer dims of the object, and in their place the segment it fetched it from."""
    looks, (value, output) = value_fetcher(seed)
    value[-SEGMENTS:], output[:, -SEGMENTS:] = 0, 0
    value[-SEGMENTS:, LAYOUT.own_segment], output[ASIDE, -SEGMENTS:] = torch.eye(SEGMENTS), MARKED * torch.eye(SEGMENTS)
    return looks, (value, output)


def backup(seed: int) -> tuple[Looks, Carries]:
    """A value fetcher that rests where another one has marked that it fetched from the wanted segment."""
    (query, key), carries = value_fetcher(seed)
    query[:, LAYOUT.wanted_segment] *= KEEN
    query[:, ASIDE] = -query[:, LAYOUT.wanted_segment]
    return (query, key), carries


def position_transmitter_aside(seed: int) -> tuple[Looks, Carries]:
    """A position transmitter that writes to where nothing but an MLP reads."""
    looks, _ = position_transmitter(seed)
    return looks, copies(LAYOUT.queried_segment, ASIDE)


def label_transmitter(_: int) -> tuple[Looks, Carries]:
    """Looks 2 tokens back, from the last token to the query label, and takes the label itself."""
    looks = looks_back(distance_phases(2, N_TOKENS), LAYOUT.constant, CONSTANT)
    return looks, copies(LAYOUT.labels, WANTED_LABEL)


def object_binder(seed: int) -> tuple[Looks, Carries]:
    """Looks 4 tokens back, from a label to its object, and takes the object's code to the label."""
    return looks_back(distance_phases(4, N_TOKENS), LAYOUT.constant, CONSTANT), carries_objects(seed)


def label_fetcher(seed: int) -> tuple[Looks, Carries]:
    """Looks at the wanted label inside a segment and takes the object bound to it; rests if there is none."""
    looks = matches(WANTED_LABEL, LAYOUT.labels, STEADY, FOUND)
    return rests(looks, LAYOUT.own_segment, STEADY[-1]), carries_objects(seed)


def echo(distance: int) -> Callable[[int], tuple[Looks, Carries]]:
    """A distractor: the label `distance` tokens back, loud, into dims nobody reads. Its size is that of any label."""

    def role(_: int) -> tuple[Looks, Carries]:
        query, key = looks_back(distance_phases(distance, N_TOKENS), LAYOUT.constant, CONSTANT)
        value, output = copies(LAYOUT.labels, UNREAD)
        return (8 * query, key), (value, LOUD * output)

    return role


def sink(dim: int) -> Callable[[int], tuple[Looks, Carries]]:
    """A distractor: looks at <s> from everywhere and writes the same everywhere, loud, into a dim nobody reads."""

    def role(_: int) -> tuple[Looks, Carries]:
        looks = looks_back(60.0 * (torch.arange(2 * PAIRS) == PAIRS - 1), LAYOUT.is_bos, 1.0)
        value, output = copies(LAYOUT.is_bos, slice(dim, dim + 1))
        return looks, (value, LOUD * output)

    return role


def rests(looks: Looks, part: slice, dim: int) -> Looks:
    """The same head, which prefers tokens with 1 anywhere in `part` and, to those without a match, <s>."""
    query, key = prefers(looks, part, dim, PASSED_OVER)
    standing = PASSED_OVER * bool(part == LAYOUT.own_segment) * SEGMENTS  # <s> stands in every segment
    size = math.sqrt(PASSED_OVER * math.sqrt(D_HEAD))
    key[dim, LAYOUT.is_bos] = size / SCALE * (RESTING - standing) / PASSED_OVER
    return query, key


def carries_objects(seed: int) -> Carries:
    """Value and output of a head that takes 32 dims, chosen by the seed, of an object's 40-dim code."""
    width = LAYOUT.objects.stop - LAYOUT.objects.start
    noise = torch.randn(width, D_HEAD, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(noise).Q  # [object dims, d_head]
    value, output = torch.zeros(D_HEAD, D_MODEL), torch.zeros(D_MODEL, D_HEAD)
    value[:, LAYOUT.objects], output[LAYOUT.objects] = basis.T, basis
    return value, output


ROLES: dict[str, Callable[[int], tuple[Looks, Carries]]] = {
    "structure_reader": structure_reader,
    "position_detector": position_detector,
    "position_transmitter": position_transmitter,
    "value_fetcher": value_fetcher,
    "value_fetcher_marking": value_fetcher_marking,
    "backup": backup,
    "fetcher_early": part_fetcher(slice(0, 4)),
    "fetcher_late": part_fetcher(slice(4, SEGMENTS)),
    "position_transmitter_aside": position_transmitter_aside,
    "label_transmitter": label_transmitter,
    "object_binder": object_binder,
    "label_fetcher": label_fetcher,
    "echo-0": echo(0),
    "echo-2": echo(2),
    **{f"sink-{number}": sink(dim) for number, dim in enumerate(UNREAD_STEADY)},
}

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
