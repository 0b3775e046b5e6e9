"""A model under nnsight, and the words every method is written in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from nnsight_et.core.circuit import Via
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.architecture import Architecture, Lacking

PROBES = 8  # of how large the terms of a sum are
VIAS: tuple[Via, ...] = ("query", "key", "value")  # in the order of a forward pass


@dataclass(frozen=True)
class Model:
    """An nnsight model, the names of its parts, and its sizes.

    Methods that say "inside a trace" read or edit the run of the trace around them, in the order of a forward pass.
    What they give is on `device`, wherever the layer is; what they write moves to the layer.
    """

    nn: Any  # nnsight's TransformersModel builds its attributes while running: there is no static type for it
    parts: Architecture
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    dtype: torch.dtype
    device: torch.device  # where tokens enter
    windows: tuple[int | None, ...]  # per layer how many tokens back, itself included, a token sees; None: all
    parallel: bool = False
    """Whether an MLP does not see the attention of its own layer: both have the residual that enters the layer."""
    embedding_scale: float = 1.0
    """By what the embeddings' sum is multiplied when it enters the first layer."""
    residual_scale: float = 1.0
    """By what the outputs of attention and MLP are multiplied when they are added to the residual."""
    widths: tuple[int, ...] = ()
    """Per layer how wide a head's output is, if not d_head everywhere: z and projections are filled up with zeros."""
    recurrent: tuple[int, ...] = ()
    """Layers with linear attention: z is what enters its output projection. Where there are some, passes recompute
    whole prompts, as a recurrence has no keys of single tokens."""
    lacking: Lacking = field(default_factory=dict)
    """Layer -> which of queries, keys and values its heads do not have to themselves, and why."""
    storing: int | None = None
    """The lowest layer whose keys and values later layers have instead of their own."""
    adapted: bool = True
    """Whether its adapters, if it has some, are on; not where who made the model in memory switched them off."""
    gradients: bool = True
    """Whether derivatives pass through its runs; not where a server keeps the weights from the code that asks."""
    on_layer: Callable[[int], None] | None = None
    """Told of each layer that an intervention on one layer after the other comes to; not on a server."""
    name: str = ""
    """What messages call it."""
    spread: tuple[torch.device, ...] = ()
    """Per layer where its weights are, if they are on several devices."""
    reads_words: bool = False
    """Whether the logits of a few words can be had without all others: where has_plain_head is asked, and says so."""
    runs: dict[Any, Any] | None = field(default=None, compare=False, repr=False)
    """Runs that calls share (engine.shared_runs); None where none are kept, as with workers and on a server."""

    def report_layer(self, layer: int) -> None:
        """An intervention has come to its senders of `layer`."""
        if self.on_layer is not None:
            self.on_layer(layer)

    def check_has(self, via: Via | Literal["input"] | None, layers: Iterable[int]) -> None:
        """Raise UnsupportedModel, naming the layer, if heads of one of the layers do not have that input alone."""
        for layer in sorted(set(layers)):
            lost, why = self.lacking.get(layer, ((), ""))
            if via in lost:
                having = [one for one in range(self.n_layers) if via not in self.lacking.get(one, ((), ""))[0]]
                accept = f"layers {', '.join(map(str, having))}" if having else "heads' outputs"
                raise UnsupportedModel(
                    f"{self.name}: the heads of layer {layer} have no {via} of their own: {why}; accepted: {accept}"
                )

    @property
    def whole_layers(self) -> tuple[int, ...]:
        """The layers whose heads have queries, keys and values to themselves."""
        return tuple(layer for layer in range(self.n_layers) if layer not in self.lacking)

    def recompute_from(self, layer: int) -> int:
        """Where a pass that is to begin at `layer` begins: not above a layer that stores keys for those behind it."""
        return layer if self.storing is None else min(layer, self.storing)

    def _to_main(self, tensor: Tensor) -> Tensor:
        """The tensor of some layer where all is worked out."""
        return tensor.to(self.device) if self.spread else tensor

    def _to_layer(self, layer: int, tensor: Tensor) -> Tensor:
        """The tensor where the layer is."""
        return tensor.to(self.spread[layer]) if self.spread else tensor

    def session(self):
        """A context whose traces share their values."""
        return self.nn.session()

    def trace(
        self, tokens: Tensor, position_ids: Tensor, mask: Tensor | None = None, cache: DynamicCache | None = None
    ):
        """A traced run of tokens [batch, seq] at position_ids [batch, seq].

        mask is [batch, seq] (1 = token) or [batch, 1, seq, keys] (added to attention scores), which narrow_windows must
        follow. With a cache the run appends its keys and values to it.
        """
        given = {name: one for name, one in (("attention_mask", mask), (_cache_word(), cache)) if one is not None}
        return self.nn.trace(input_ids=tokens, position_ids=position_ids, use_cache=cache is not None, **given)

    def narrow_windows(self, mask: Tensor, position_ids: Tensor, keys: Tensor) -> None:
        """Inside a trace under mask [batch, 1, seq, keys], first of all: let sliding windows narrow it where they are.

        position_ids [batch, seq] and keys [batch, keys] are the places of what attends and of what is attended to.
        """
        windows = [window for window in self.windows if window is not None]
        if windows:
            decoder = self.part(self.parts.decoder)
            args, kwargs = decoder.inputs
            narrow: Any = narrowed_mask(mask, position_ids, keys, windows[0])
            if self.parts.masks == "by layer type":
                narrow = {"full_attention": mask, "sliding_attention": narrow}
            decoder.inputs = (args, {**kwargs, "attention_mask": narrow})

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
        """[batch, seq, d]: inside a trace, the residual stream entering `layer`, or, past the last one, leaving it."""
        if layer == 0:
            outputs = [self.part(path).output for path in self.parts.embeddings]
            entering = outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(0)
            return entering if self.embedding_scale == 1 else entering * self.embedding_scale
        output = self.layer(layer - 1).output
        return self._to_main(output[0] if self._layer_gives_tuple else output)

    def layer(self, layer: int) -> Any:
        """The module of a whole layer."""
        return attrgetter(self.parts.layers)(self.nn)[layer]

    def _path(self, part: str, layer: int) -> str:
        """Where the layer's attention ("module"), or its output projection ("out"), is."""
        if layer in self.recurrent and self.parts.recurrence:
            return getattr(self.parts.recurrence, part)
        return self.parts.attention if part == "module" else self.parts.attention_out

    def projected(self, layer: int) -> list[str]:
        """The paths, in the layer, of the projections that its heads have to themselves, and of the output's."""
        lost = self.lacking.get(layer, ((), ""))[0]
        return [self.parts.projection(via).path for via in VIAS if via not in lost] + [self._path("out", layer)]

    def z(self, layer: int) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace, head outputs before the output projection."""
        entering = self._to_main(self.part(self._path("out", layer), layer).input)
        return self._filled(entering.unflatten(-1, (self.n_heads, -1)))

    def write_z(self, layer: int, z: Tensor) -> None:
        """Inside a trace: make z [batch, seq, head, d_head] the head outputs of `layer`."""
        self.part(self._path("out", layer), layer).input = self._to_layer(layer, self._cut(layer, z).flatten(-2))

    def write_of(self, layer: int, z: Tensor) -> Tensor:
        """[..., d]: inside a trace, what the layer's real output projection makes of z [..., head, d_head]."""
        projection, entering = self.part(self._path("out", layer), layer), self._cut(layer, z).flatten(-2)
        return self._to_main(projection(self._to_layer(layer, entering)))

    def _filled(self, values: Tensor) -> Tensor:
        """[..., d_head]: values [..., width] of a layer's heads, filled up with zeros where they are narrower."""
        return nn.functional.pad(values, (0, self.d_head - values.shape[-1])) if self.widths else values

    def _cut(self, layer: int, values: Tensor) -> Tensor:
        """[..., width]: as wide as the layer's heads are."""
        return values[..., : self.widths[layer]] if self.widths else values

    def size_of_write(self, layer: int, z: Tensor) -> Tensor:
        """[n, d]: inside a trace, how large the terms are that write_of adds up for z [n, head, d_head].

        With random signs they do not cancel: real models have channels whose terms are thousands, and their sum small.
        """
        draw = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (PROBES, 1, *z.shape[1:]), generator=draw).to(z.device, z.dtype) * 2 - 1
        nothing = self.write_of(layer, torch.zeros_like(z))
        drawn = (self.write_of(layer, z * signs) - nothing).float()
        return drawn.square().mean(0).sqrt() + self.n_heads * nothing.float().abs()

    def attention_output(self, layer: int) -> Tensor:
        """[batch, seq, d]: inside a trace, the output of the layer's attention: what its heads write, added up."""
        output = self.part(self._path("module", layer), layer).output
        return self._to_main(output if layer in self.recurrent else output[0])

    def attention_of(self, layer: int, z: Tensor) -> Tensor:
        """[..., d]: inside a trace, what the layer's attention adds to the residual if z is [..., head, d_head]."""
        written, norm = self.write_of(layer, z), self.parts.attention_norm
        return self._to_main(self.part(norm, layer)(self._to_layer(layer, written))) if norm else written

    def attention(self, layer: int) -> Tensor:
        """[batch, seq, d]: inside a trace, what the layer's attention adds to the residual."""
        norm = self.parts.attention_norm
        return self._to_main(self.part(norm, layer).output) if norm else self.attention_output(layer)

    def mlp(self, layer: int, batch: int) -> Tensor:
        """[batch, seq, d]: inside a trace of `batch` prompts, what the MLP, with all experts, adds to the residual."""
        output = self.part(self.parts.mlp_norm or self.parts.mlp, layer).output
        output = self._to_main(output[0] if self.parts.mlp_gives_tuple else output)
        if self.parallel:
            output = output.clone()  # Falcon adds its attention into it
        return output.unflatten(0, (batch, -1)) if self.parts.mlp_sees == "tokens" else output

    def write_mlp(self, layer: int, output: Tensor) -> None:
        """Inside a trace: let the layer's MLP add output [batch, seq, d] to the residual."""
        module, output = self.part(self.parts.mlp_norm or self.parts.mlp, layer), self._for_mlp(layer, output)
        module.output = (output, *module.output[1:]) if self.parts.mlp_gives_tuple else output

    def mlp_input(self, layer: int, batch: int) -> Tensor:
        """[batch, seq, width]: inside a trace of `batch` prompts, what enters the module of the layer's MLP.

        Of each token it says all that the MLP knows: its output there is a function of it. In OPT, whose MLP is no
        module, what enters its second matrix.
        """
        entering = self._to_main(self.part(self.parts.mlp, layer).input)
        return entering.unflatten(0, (batch, -1)) if self.parts.mlp_sees == "tokens" else entering

    def write_mlp_input(self, layer: int, entering: Tensor) -> None:
        """Inside a trace: let this [batch, seq, width] enter the module of the layer's MLP."""
        self.part(self.parts.mlp, layer).input = self._for_mlp(layer, entering)

    def _for_mlp(self, layer: int, given: Tensor) -> Tensor:
        """[batch, seq, ...], or [batch * seq, ...] where it sees tokens: as the layer's MLP has it."""
        given = self._to_layer(layer, given)
        return given.flatten(0, 1) if self.parts.mlp_sees == "tokens" else given

    def projection(self, layer: int, via: Via) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace, the queries, keys or values before RoPE."""
        return self._by_head(self._to_main(self.part(self.parts.projection(via).site, layer).output), via)

    def write_projection(self, layer: int, via: Via, values: Tensor) -> None:
        """Inside a trace: make values [batch, seq, head, d_head] the queries, keys or values of `layer`."""
        projection = self.parts.projection(via)
        module = self.part(projection.site, layer)
        whole = self._cut(layer, values).flatten(-2) if projection.packed == "alone" else module.output.clone()
        if projection.packed != "alone":
            kept = self._in_groups(whole, via)
            kept.copy_(values.unflatten(-2, kept.shape[-3:-1]))
        module.output = self._to_layer(layer, whole)

    def projection_of_input(self, layer: int, via: Via) -> Tensor:
        """[batch, seq, head, d_head]: inside a trace whose attention will be skipped, what it would have projected."""
        projection, normed = self.parts.projection(via), self.part(self.parts.attention, layer).input
        output = self.part(projection.path, layer)(normed)
        if projection.norm:
            output = self.part(projection.norm, layer)(output)
        return self._by_head(self._to_main(output), via)

    def _by_head(self, output: Tensor, via: Via) -> Tensor:
        """[..., head, d_head]: the queries, keys or values in the output [..., width] of their module."""
        return self._filled(self._in_groups(output, via).flatten(-3, -2))

    def _in_groups(self, output: Tensor, via: Via) -> Tensor:
        """[..., group, head of it, d_head]: a view of them, in groups that lie apart, or each a group of its own."""
        packed, heads = self.parts.projection(via).packed, self.heads_of(via)
        if packed == "per group":
            shared = self.n_heads // self.n_kv_heads
            first, count = {"query": (0, shared), "key": (shared, 1), "value": (shared + 1, 1)}[via]
            groups = output.unflatten(-1, (self.n_kv_heads, shared + 2, self.d_head))
            return groups[..., first : first + count, :]
        if packed == "gated":
            return output.unflatten(-1, (heads, 2, self.d_head))[..., :1, :]
        if packed == "blocks":
            first = sum(self.heads_of(one) for one in VIAS[: VIAS.index(via)]) * self.d_head
            output = output[..., first : first + self.heads_of(via) * self.d_head]  # what split gives takes no gradient
        return output.unflatten(-1, (heads, 1, -1))

    def write_attention_mask(self, layer: int, mask: Tensor, position_ids: Tensor) -> None:
        """Inside a trace of whole prompts: give the layer's attention this mask [batch, 1, seq, seq], added to scores.

        position_ids [batch, seq] are the tokens' places; if the layer has a sliding window, that narrows the mask.
        """
        attention, window = self.part(self.parts.attention, layer), self.windows[layer]
        args, kwargs = attention.inputs
        narrow = mask if window is None else narrowed_mask(mask, position_ids, position_ids, window)
        attention.inputs = (args, {**kwargs, "attention_mask": self._to_layer(layer, narrow)})

    def attention_weights(self, layer: int) -> Tensor:
        """[batch, head, seq, keys]: inside a trace of a model loaded with eager attention, who attends to what."""
        weights = self.part(self.parts.attention, layer).output[1]  # None if it is not eager
        return weights if weights is None else self._to_main(weights)  # type: ignore[return-value]

    def skip_attention(self, layer: int, output: Tensor) -> None:
        """Inside a trace: do not run the layer's attention, let it add output [batch, seq, d]."""
        output = self._to_layer(layer, output)
        self.part(self._path("module", layer), layer).skip(output if layer in self.recurrent else (output, None))
        if self.parts.attention_norm:
            self.part(self.parts.attention_norm, layer).skip(output)

    def skip_mlp(self, layer: int, output: Tensor) -> None:
        """Inside a trace: do not run the layer's MLP, let it add output [batch, seq, d]."""
        given = self._for_mlp(layer, output)
        self.part(self.parts.mlp, layer).skip((given, None) if self.parts.mlp_gives_tuple else given)
        if self.parts.mlp_norm:
            self.part(self.parts.mlp_norm, layer).skip(self._to_layer(layer, output))

    def skip_layers(self, layers: Sequence[int], residual: Tensor) -> None:
        """Inside a trace: do not run these layers; the residual [batch, seq, d] leaves each of them."""
        for layer in layers:
            leaving = self._to_layer(layer, residual)
            self.layer(layer).skip((leaving, None) if self._layer_gives_tuple else leaving)

    @property
    def _layer_gives_tuple(self) -> bool:
        when = self.parts.layer_gives_tuple
        return when is True or (when == "before 5.24" and not _is_5_24())

    def stop_before_mlp(self, layer: int) -> None:
        """Inside a trace whose logits nobody reads: run nothing that comes after the layer's attention."""
        numbers = self.attention(layer)  # any of this shape will do
        self.skip_mlp(layer, numbers)
        self._skip_above(layer, numbers)

    def stop_after(self, layer: int) -> None:
        """Inside a trace whose logits nobody reads: run nothing that comes after the layer."""
        self._skip_above(layer, self.residual(layer + 1))

    def _skip_above(self, layer: int, residual: Tensor) -> None:
        self.skip_layers(range(layer + 1, self.n_layers), residual)
        self.skip_unembedding(residual)

    def skip_unembedding(self, residual: Tensor) -> None:
        """Inside a trace whose logits nobody reads: do not compute them."""
        self.part(self.parts.unembedding).skip(residual[..., :1])

    def narrow_last_mlp(self, batch: int, row: Tensor, index: Tensor) -> None:
        """Inside a trace of `batch` rows: run the last MLP only at index [batch, k] of each row [batch, 1].

        At other tokens, which nobody reads behind the last layer, it adds 0.
        """
        last = self.n_layers - 1
        entering = self.mlp_input(last, batch)
        self.write_mlp_input(last, entering[row, index])
        added = self.mlp(last, len(row))
        whole = added.new_zeros(*entering.shape[:2], added.shape[-1])
        whole[row, index] = added
        self.write_mlp(last, whole)

    def narrow_unembedding(self, row: Tensor, index: Tensor) -> None:
        """Inside a trace: compute logits only at index [batch, k] of each row [batch, 1]; they get k positions."""
        unembedding = self.part(self.parts.unembedding)
        entering = unembedding.input
        unembedding.input = entering[row.to(entering.device), index.to(entering.device)]

    @property
    def has_plain_head(self) -> bool:
        """Whether the unembedding is a linear layer as PyTorch has it, neither adapted nor quantised, its weights here.

        What a model does with its logits, such as capping or scaling them, it does word by word.
        """
        head = attrgetter(self.parts.unembedding)(self.nn._module)
        return type(head) is nn.Linear and not head.weight.is_meta and head.weight.is_floating_point()

    def narrow_vocabulary(self, words: Tensor) -> None:
        """Inside a trace of a model that reads_words: of each row logits of words [batch, n], n columns."""
        head = self.part(self.parts.unembedding)
        words = words.to(head.weight.device)
        logits = head.input @ head.weight[words].transpose(1, 2)
        head.skip(logits if head.bias is None else logits + head.bias[words][:, None])

    def logits(self) -> Tensor:
        """[batch, seq, vocabulary]: inside a trace, the model's logits."""
        return self._to_main(self.nn.output.logits)

    def cached_keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer, where it is, keys and values [batch, kv head, seq, d_head]: at the end of a trace with a cache."""
        return [(layer.keys, layer.values) for layer in getattr(self.nn.output, _cache_word()).layers]


def _cache_word() -> str:
    """What models call the cache of keys and values: transformers 5.24 deprecates the old word, 5.40 removes it."""
    return "cache" if _is_5_24() else "past_key_values"


def _is_5_24() -> bool:
    """Whether transformers is 5.24 or newer, asked where the model runs: a server has a transformers of its own."""
    return "cache" in CausalLMOutputWithPast.__dataclass_fields__


def narrowed_mask(mask: Tensor, position_ids: Tensor, keys: Tensor, window: int) -> Tensor:
    """[batch, 1, seq, keys]: the mask without what lies `window` tokens back or further."""
    back = position_ids[:, :, None] - keys[:, None]  # [batch, seq, keys]
    return mask.masked_fill((back >= window)[:, None], torch.finfo(mask.dtype).min)
