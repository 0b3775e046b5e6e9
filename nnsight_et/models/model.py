"""A model under nnsight, and the words every method is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from nnsight_et.models.architecture import Architecture

Via = Literal["query", "key", "value"]


@dataclass(frozen=True)
class Model:
    """An nnsight model, the names of its parts, and its sizes.

    Methods that say "inside a trace" read or edit the run of the trace around them, in the order of a forward pass.
    """

    nn: Any  # nnsight's TransformersModel builds its attributes while running: there is no static type for it
    parts: Architecture
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    dtype: torch.dtype
    device: torch.device
    gradients: bool = True
    """Whether derivatives pass through its runs; not where a server keeps the weights from the code that asks."""

    def settled(self) -> Model:
        """The same model as it is where its traces run: with that dtype and device. Opens a trace."""
        token = torch.zeros(1, 1, dtype=torch.long)
        with self.trace(token, token):
            residual = self.residual(0)
            dtype, device = residual.dtype, residual.device
            self.skip_layers(range(self.n_layers), residual)
            self.skip_unembedding(residual)
        gradients = not self.part(self.parts.embedding).weight.is_meta
        return replace(self, dtype=dtype, device=device, gradients=gradients)

    def session(self):
        """A context whose traces share their values."""
        return self.nn.session()

    def trace(
        self, tokens: Tensor, position_ids: Tensor, mask: Tensor | None = None, cache: DynamicCache | None = None
    ):
        """A traced run of tokens [batch, seq] at position_ids [batch, seq].

        mask is [batch, seq] (1 = token) or [batch, 1, seq, keys] (added to attention scores). With a cache the run
        appends its keys and values to it.
        """
        kwargs = {"input_ids": tokens, "position_ids": position_ids, "use_cache": cache is not None}
        if mask is not None:
            kwargs["attention_mask"] = mask
        if cache is not None:
            kwargs["past_key_values"] = cache
        return self.nn.trace(**kwargs)

    def part(self, path: str, layer: int | None = None) -> Any:
        """The module at `path`, from the layer's root if a layer is given."""
        root = self.nn if layer is None else attrgetter(self.parts.layers)(self.nn)[layer]
        return attrgetter(path)(root)

    def heads_of(self, via: Via) -> int:
        """How many heads the query, key or value projection has: keys and values live in kv-head space."""
        return self.n_heads if via == "query" else self.n_kv_heads

    def receiver(self, index: int, via: Via) -> int:
        """The index, in the space of `via`, of query head `index`: under GQA kv head h // group for keys and values."""
        return index if via == "query" else index // (self.n_heads // self.n_kv_heads)

    def residual(self, layer: int) -> Tensor:
        """[batch, seq, d]: inside a trace, the residual stream entering `layer`."""
        return self.part(self.parts.embedding).output if layer == 0 else self.layer(layer - 1).output

    def layer(self, layer: int) -> Any:
        """The module of a whole layer."""
        return attrgetter(self.parts.layers)(self.nn)[layer]

    def z(self, layer: int) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace, head outputs before the output projection; a view of them."""
        return self.part(self.parts.attention_out, layer).input.unflatten(-1, (self.n_heads, self.d_head))

    def write_z(self, layer: int, z: Tensor) -> None:
        """Inside a trace: make z [batch, seq, head, d_head] the head outputs of `layer`."""
        self.part(self.parts.attention_out, layer).input = z.flatten(-2)

    def attention_of(self, layer: int, z: Tensor) -> Tensor:
        """[..., d]: inside a trace, what the layer's real output projection makes of z [..., head, d_head]."""
        return self.part(self.parts.attention_out, layer)(z.flatten(-2))

    def attention(self, layer: int) -> Tensor:
        """[batch, seq, d]: inside a trace, what the layer's attention adds to the residual."""
        return self.part(self.parts.attention, layer).output[0]

    def projection(self, layer: int, via: Via) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace, the queries, keys or values before RoPE."""
        output = self.part(self.parts.site(via), layer).output
        return output.unflatten(-1, (self.heads_of(via), self.d_head))

    def write_projection(self, layer: int, via: Via, values: Tensor) -> None:
        """Inside a trace: make values [batch, seq, head, d_head] the queries, keys or values of `layer`."""
        self.part(self.parts.site(via), layer).output = values.flatten(-2)

    def projection_of_input(self, layer: int, via: Via) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace whose attention will be skipped, what it would have projected."""
        normed = self.part(self.parts.attention, layer).input
        return self.part(self.parts.site(via), layer)(normed).unflatten(-1, (self.heads_of(via), self.d_head))

    def write_attention_mask(self, layer: int, mask: Tensor) -> None:
        """Inside a trace: give the layer's attention this mask [batch, 1, seq, keys], added to its scores."""
        attention = self.part(self.parts.attention, layer)
        args, kwargs = attention.inputs
        attention.inputs = (args, {**kwargs, "attention_mask": mask})

    def attention_weights(self, layer: int) -> Tensor:
        """[batch, head, seq, keys]: inside a trace of a model loaded with eager attention, who attends to what."""
        return self.part(self.parts.attention, layer).output[1]

    def skip_attention(self, layer: int, output: Tensor) -> None:
        """Inside a trace: do not run the layer's attention, let it add output [batch, seq, d]."""
        self.part(self.parts.attention, layer).skip((output, None))

    def skip_mlp(self, layer: int, output: Tensor) -> None:
        """Inside a trace: do not run the layer's MLP, let it add output [batch, seq, d]."""
        self.part(self.parts.mlp, layer).skip(output)

    def skip_layers(self, layers: Sequence[int], residual: Tensor) -> None:
        """Inside a trace: do not run these layers; the residual [batch, seq, d] leaves each of them."""
        for layer in layers:
            self.layer(layer).skip(residual)

    def skip_unembedding(self, residual: Tensor) -> None:
        """Inside a trace whose logits nobody reads: do not compute them."""
        self.part(self.parts.unembedding).skip(residual[..., :1])

    def narrow_unembedding(self, row: Tensor, index: Tensor) -> None:
        """Inside a trace: compute logits only at index [batch, k] of each row [batch, 1]; they get k positions."""
        unembedding = self.part(self.parts.unembedding)
        unembedding.input = unembedding.input[row, index]

    def logits(self) -> Tensor:
        """[batch, seq, vocabulary]: inside a trace, the model's logits."""
        return self.nn.output.logits

    def cached(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer keys and values [batch, kv head, seq, d_head]: inside a trace with a cache, after the logits."""
        return [(layer.keys, layer.values) for layer in self.nn.output.past_key_values.layers]
