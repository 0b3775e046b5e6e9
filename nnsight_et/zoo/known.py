"""Models whose circuit is known, with the truth as data: what every method has to find in them.

Made from a seed in seconds: every weight is written by hand, no training, MLPs that do nothing. The truth is stated
here, from where the heads were put and what they were built to do; nothing in this file measures anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.zoo.layout import CONSTANT, LAYOUT, SCALE, answer_directions, token_embeddings
from nnsight_et.zoo.phases import D_HEAD
from nnsight_et.zoo.plant import (
    ASIDE,
    LAYER_0,
    N_HEADS,
    PlantedHead,
    blank_model,
    known_weights,
    layers_of,
    write_weights,
)
from nnsight_et.zoo.tokenizer import UNKNOWN, vocabulary, word_tokenizer

DOUBT = 1.5
"""The logit of <unk> whatever the prompt: the answer of a model whose circuit is cut."""
D_MLP = 32
OPEN = 10.0  # what a gate of an MLP that copies is given; SiLU leaves it as it is
IDLE = 0.08  # standard deviation of the weights of heads without a role


@dataclass(frozen=True)
class Group:
    """One planted group: where it acts, whose input it writes to, where it looks, and which variable it carries."""

    role: str
    at: str
    into: str
    via: str | None
    looks_at: str
    carries: str
    """The desideratum its heads, all of them, are selected for; for no other are any of them."""
    missed: bool = True
    """Whether mean ablation takes its message away; a message that is the same in all prompts stays."""


@dataclass(frozen=True)
class Known:
    """A model to be made, and its truth."""

    name: str
    heads: tuple[PlantedHead, ...]
    groups: Mapping[str, Group]
    """By name, from the logits back. Of a group of two heads either suffices for the right answer."""
    n_layers: int = 5
    n_kv_heads: int = N_HEADS
    contrast: float = 7.5
    """The logit of the right answer, before what a head loses that carries 32 of 40 dims."""
    unread: tuple[Head, ...] = ()
    """Distractors: loud, and read by nothing."""
    guesses: frozenset[tuple[str, str]] = frozenset()
    """(group, desideratum) where a patch hits the target by chance: what is selected there is no matter of truth."""
    noise: float = 0.0
    """Standard deviation of what heads without a role and MLPs write at random."""
    carrying: int | None = None
    """The layer whose MLP takes what was written aside to where the segment that is asked for is read."""
    backed_up: frozenset[str] = frozenset()
    """Groups that a head outside the circuit stands in for: taken out, the model answers and the circuit does not."""
    demanded: bool = True
    """Whether every method has to find the truth; what is found otherwise is measured and told."""

    @property
    def circuit(self) -> Circuit:
        """The planted heads by group."""
        roles = {name: (group.role, f"{group.role}_early", f"{group.role}_late") for name, group in self.groups.items()}
        places = {name: tuple(one.head for one in self.heads if one.role in those) for name, those in roles.items()}
        return Circuit(tuple(HeadGroup(name, group.at, places[name]) for name, group in self.groups.items()))

    def harmless_from(self, blind: str, to: str) -> int:
        """From which layer on blocking attention from `blind` to `to` costs nothing: past the heads that look there."""
        lookers = [name for name, group in self.groups.items() if (group.at, group.looks_at) == (blind, to)]
        layers = [head.layer for name in lookers if self.groups[name].missed for head in self.circuit.group(name).heads]
        return max(layers, default=-1) + 1

    def downstream(self, group: str) -> tuple[str, ...]:
        """The group and all its message goes through, in order."""
        following = self.groups[group].into
        return (group, *(self.downstream(following) if following in self.groups else ()))


BY_POSITION = {
    "value_fetcher": Group("value_fetcher", "last", "logits", None, "correct_object", "object"),
    "position_transmitter": Group("position_transmitter", "last", "value_fetcher", "query", "query_label", "position"),
    "position_detector": Group(
        "position_detector", "query_label", "position_transmitter", "value", "previous_query_label", "position"
    ),
    "structure_reader": Group(
        "structure_reader", "previous_query_label", "position_detector", "value", "correct_object", "position", False
    ),
}
"""The paper's circuit: D tells a label its segment, C finds the label, B carries its segment, A fetches the object."""
BY_LABEL = {
    "value_fetcher": Group("label_fetcher", "last", "logits", None, "previous_query_label", "object"),
    "label_transmitter": Group("label_transmitter", "last", "value_fetcher", "query", "query_label", "label"),
    "object_binder": Group(
        "object_binder", "previous_query_label", "value_fetcher", "value", "correct_object", "object"
    ),
}
"""Another way to answer: objects are bound to their labels, and the label is looked up."""
BY_CHANCE = frozenset({("structure_reader", "label")})
"""For `label` the source's D stands at any label: one time in seven it gives the target's segment."""


def parse_heads(text: str) -> tuple[PlantedHead, ...]:
    """Planted heads written as "head role strength; ..." with the sharpness of attention at the end if it is not 1."""
    heads = []
    for entry in text.split(";"):
        head, role, *numbers = entry.split()
        heads.append(PlantedHead(Head.parse(head), role, *map(float, numbers)))
    return tuple(heads)


POSITION = Known(
    "position",
    (
        *LAYER_0,
        *parse_heads(
            """L1H0 structure_reader 1; L2H0 position_detector 1; L3H0 position_transmitter 1;
            L4H0 value_fetcher .5; L4H1 value_fetcher .5"""
        ),
    ),
    BY_POSITION,
    guesses=BY_CHANCE,
)
GROUPED = Known(
    "grouped",
    (
        *LAYER_0,
        *parse_heads(
            """L1H6 structure_reader 1; L2H3 position_detector 1; L3H0 position_transmitter .7;
            L3H1 position_transmitter .7; L4H2 value_fetcher .5; L4H5 value_fetcher .5"""
        ),
    ),
    BY_POSITION,
    n_kv_heads=2,
    guesses=BY_CHANCE,
)
LABEL = Known(
    "label",
    (
        *LAYER_0,
        *parse_heads(
            """L1H2 object_binder 1; L1H5 object_binder 1; L2H4 label_transmitter 1;
            L3H1 label_fetcher .5; L3H6 label_fetcher .5"""
        ),
    ),
    BY_LABEL,
    n_layers=4,
    contrast=5.0,
)
DISTRACTORS = parse_heads("L0H0 echo-0 1; L0H5 echo-2 1; L2H0 sink-0 1; L3H6 sink-1 1; L4H3 sink-2 1")
CROWDED = Known(
    "crowded",
    (
        *(PlantedHead(Head(1, one.head.index), one.role) for one in LAYER_0),
        *parse_heads(
            """L2H3 structure_reader 1; L3H2 position_detector 1 1.5; L4H1 position_transmitter .75;
            L4H5 position_transmitter .75; L5H0 value_fetcher .5 2; L5H7 value_fetcher .5 2"""
        ),
        *DISTRACTORS,
    ),
    BY_POSITION,
    n_layers=6,
    contrast=9.5,
    unread=tuple(one.head for one in DISTRACTORS),
    guesses=BY_CHANCE,
)


KNOWN = (POSITION, GROUPED, LABEL, CROWDED)


def make_model(known: Known, seed: int, silenced: str | None = None) -> LlamaForCausalLM:
    """The model. With `silenced`, a group that does not know where to look: its heads' keys are 0."""
    model = blank_model(known.n_layers, D_MLP, known.n_kv_heads)
    embeddings = token_embeddings(seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.copy_(embeddings * answer_directions() * known.contrast / SCALE)
        model.lm_head.weight[vocabulary().index(UNKNOWN), LAYOUT.constant] = DOUBT / (CONSTANT * SCALE)
        for one in known.heads:
            layer, index = one.head
            write_weights(model, one, known_weights(one.role, seed + N_HEADS * layer + index))
        keep_busy(model, seed, known.noise)
        if known.carrying is not None:
            carry_by_mlp(layers_of(model)[known.carrying].mlp)
        for layer, index in known.circuit.group(silenced).heads if silenced else ():
            shared = index * known.n_kv_heads // N_HEADS
            layers_of(model)[layer].self_attn.k_proj.weight[D_HEAD * shared : D_HEAD * (shared + 1)] = 0
    return model.eval()


def carry_by_mlp(mlp: Any) -> None:
    """Make the MLP copy ASIDE to where the wanted segment is read: its gates are open whatever the token."""
    read, written = range(ASIDE.start, ASIDE.stop), range(LAYOUT.wanted_segment.start, LAYOUT.wanted_segment.stop)
    for row, (here, there) in enumerate(zip(read, written, strict=True)):
        mlp.gate_proj.weight[row, LAYOUT.constant] = OPEN / (CONSTANT * SCALE)
        mlp.up_proj.weight[row, here] = 1 / (OPEN * SCALE)
        mlp.down_proj.weight[there, row] = 1.0


def keep_busy(model: LlamaForCausalLM, seed: int, size: float) -> None:
    """Give heads without weights random queries, keys and values; what they find is written at random, in that size.

    So do MLPs, whose output is as large.
    """
    noise = torch.Generator().manual_seed(seed)
    for layer in layers_of(model):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            for rows in projection.weight.split(D_HEAD):
                if not rows.any():
                    rows.copy_(IDLE * torch.randn(rows.shape, generator=noise))
        if size:
            for columns in attention.o_proj.weight.split(D_HEAD, dim=1):
                if not columns.any():
                    columns.copy_(size * torch.randn(columns.shape, generator=noise))
            for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
                projection.weight.copy_(IDLE * torch.randn(projection.weight.shape, generator=noise))
            layer.mlp.down_proj.weight.copy_(size * torch.randn(layer.mlp.down_proj.weight.shape, generator=noise))


def store(model: LlamaForCausalLM, folder: Path) -> None:
    """Put the model and its tokenizer into a folder in the Hugging Face format."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
