"""The forward pass of a small Llama written out, so that it can be entered at any layer and any token.

Only for the models that this folder makes (one head per key and value, no bias, prompts of one length, no padding).
The record's numbers are computed with it; the package's engine does not use it and is not used by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from nnsight_et.zoo.plant import layers_of

Edit = Callable[[int, str, Tensor], Tensor]
"""(layer, "query" | "key" | "value" | "head", [batch, variant, token, head, d_head]) -> the same, changed or not."""


class CleanRun(NamedTuple):
    """A clean run, per layer: what enters it, its rotated keys, values, head outputs [batch, seq, head, d_head]."""

    entering: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]
    heads: list[Tensor]


def apply_rope(model: LlamaForCausalLM, x: Tensor, first: int) -> Tensor:
    """x [..., token, head, d_head] turned by RoPE; its first token is token `first` of the prompt."""
    place = torch.arange(first, first + x.shape[-3])[None]
    cos, sin = model.model.rotary_emb(x, place)
    return x * cos[0, :, None] + rotate_half(x) * sin[0, :, None]


def capture_run(model: LlamaForCausalLM, tokens: Tensor) -> CleanRun:
    """The clean run of tokens [batch, seq]."""
    run = CleanRun([], [], [], [])
    x = model.model.embed_tokens(tokens)[:, None]  # [batch, variant, seq, d_model], one variant
    nothing_before = torch.zeros(
        len(tokens), 0, model.config.num_attention_heads, layers_of(model)[0].self_attn.head_dim
    )

    def keep(layer: int, what: str, value: Tensor) -> Tensor:
        if what != "query":
            kept = apply_rope(model, value, 0) if what == "key" else value
            {"key": run.keys, "value": run.values, "head": run.heads}[what].append(kept[:, 0])
        return value

    for layer in range(model.config.num_hidden_layers):
        run.entering.append(x[:, 0])
        x = block(model, layer, x, (0, nothing_before, nothing_before), keep)
    return run


def suffix_logits(model: LlamaForCausalLM, clean: CleanRun, x: Tensor, place: tuple[int, int], edit: Edit) -> Tensor:
    """[batch, variant, vocab]: last logits when x [batch, variant, token, d_model] enters at `place`, (layer, token).

    Everything before that token is clean; `edit` sees the projections before rotation, and the heads' outputs.
    """
    start, p = place
    for layer in range(start, model.config.num_hidden_layers):
        x = block(model, layer, x, (p, clean.keys[layer][:, :p], clean.values[layer][:, :p]), edit)
    return model.lm_head(model.model.norm(x[:, :, -1]))


def block(model: LlamaForCausalLM, layer: int, x: Tensor, before: tuple[int, Tensor, Tensor], edit: Edit) -> Tensor:
    """One layer over the tokens from p on; `before`: p, and the rotated keys and values [batch, p, head, d_head]."""
    p, old_keys, old_values = before
    part = layers_of(model)[layer]
    attention, normed = part.self_attn, part.input_layernorm(x)
    projections = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}
    split = {what: project(normed).unflatten(-1, (-1, attention.head_dim)) for what, project in projections.items()}
    query, key, value = (edit(layer, what, projected) for what, projected in split.items())
    query, key = apply_rope(model, query, p) * attention.head_dim**-0.5, apply_rope(model, key, p)
    old = torch.einsum("bvqhd,bkhd->bhvqk", query, old_keys)
    new = torch.einsum("bvqhd,bvkhd->bhvqk", query, key)
    new = new + torch.full(new.shape[-2:], -torch.inf).triu(1)
    share = torch.cat([old, new], dim=-1).softmax(-1)
    z = torch.einsum("bhvqk,bkhd->bvqhd", share[..., :p], old_values)
    z = z + torch.einsum("bhvqk,bvkhd->bvqhd", share[..., p:], value)
    return after_attention(model, layer, x, edit(layer, "head", z))


def after_attention(model: LlamaForCausalLM, layer: int, x: Tensor, z: Tensor) -> Tensor:
    """What leaves the layer, given what entered it and its heads' outputs [..., head, d_head]."""
    part = layers_of(model)[layer]
    x = x + part.self_attn.o_proj(z.flatten(-2))
    return x + part.mlp(part.post_attention_layernorm(x))
