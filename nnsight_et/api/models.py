"""A model to work on: by name, from files or the hub, or one that is already in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.batch import Example, Pair, check_lengths, collate
from nnsight_et.engine.budget import Chunks, chunks
from nnsight_et.errors import ManifestError
from nnsight_et.jobs.cells import batches
from nnsight_et.models.files import found
from nnsight_et.models.load import loaded, shape_from, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.models.named import NAMED, ModelSpec, Shape
from nnsight_et.models.own import of_module

if TYPE_CHECKING:
    from peft import PeftModel

Measure = Callable[[Pair, Chunks], dict[str, Tensor]]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with its tokenizer.

    engine: "reference" runs the literal definition over whole prompts, slowly, for checking:
    dataclasses.replace(model, engine="reference"). memory: bytes that one pass may take.
    """

    name: str
    model: Model
    tokenizer: PreTrainedTokenizerBase
    shape: Shape
    engine: Literal["default", "reference"] = "default"
    memory: int | None = None

    def __repr__(self) -> str:
        sizes = f"{self.shape.n_layers} layers of {self.shape.n_heads} heads"
        return f"<{self.name}: {sizes}, {self.model.dtype} on {self.model.device}>"

    def measured(self, examples: Sequence[Example], positions: Sequence[str], measure: Measure) -> dict[str, Tensor]:
        """By name [..., example]: what `measure` makes of batches, put together in the order of the examples.

        The prompts of a batch have as many tokens from the first of `positions` on; without positions, any number.
        """
        sizes = [(_live(example, positions), len(example.base.tokens)) for example in examples]
        chosen = chunks(self.shape, self.model.dtype.itemsize, max(length for _, length in sizes), self.memory)
        parts, order = [], []
        for batch in batches(sizes, chosen.examples):
            pair = collate([examples[index] for index in batch], self.pad).to(self.model.device)
            parts.append(measure(pair, chosen))
            order += batch
        back = torch.tensor(order).argsort()
        return {name: torch.cat([part[name] for part in parts], -1)[..., back] for name in parts[0]}

    def fitting(self, examples: list[Example]) -> list[Example]:
        """The same examples; TaskError if a prompt has more tokens than the model has positions."""
        most = self.model.parts.longest(self.model.nn.config.get_text_config())
        check_lengths(examples, most, "pairs", self.name)
        return examples

    @property
    def pad(self) -> int:
        """The padding token."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int), "loading gave it one"
        return pad


def load(
    model: str | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    *,
    adapter: str | None = None,
    gguf: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    attention: Literal["sdpa", "eager"] = "sdpa",
) -> LoadedModel:
    """The model called `model`: a name that `et models` lists, a folder, a hub id, or a transformers model in memory.

    A model in memory needs its tokenizer, is frozen and set to eval mode, and keeps its dtype, device and attention. It
    can be peft's PeftModel: what runs is its active adapter's. adapter: the folder or hub id of one over the model.
    gguf: the file in the folder that has the weights, where that is a GGUF file; transformers reads them as plain
    numbers (pip install 'nnsight-et[gguf]').
    device None is "cuda" where there is a GPU, else "cpu"; "balanced" spreads layers over all GPUs. UnsupportedModel
    if it cannot be found, read or taken apart.
    """
    if not isinstance(model, str):
        return _in_memory(model, tokenizer)
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise ManifestError(
            "tokenizer: a tokenizer in memory goes with a model in memory; accepted: a folder or hub id"
        )
    known = NAMED[model].spec if model in NAMED else ModelSpec(model)
    spec = ModelSpec(known.path, adapter or known.adapter, tokenizer=tokenizer or known.tokenizer, gguf=gguf)
    files = found(model, spec)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    nn = loaded(files, dtype, place, attention)
    return LoadedModel(model, nn, tokenizer_of(files), shape_from(nn.nn.config, model))


def _in_memory(module: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | str | None) -> LoadedModel:
    if tokenizer is None or isinstance(tokenizer, str):
        raise ManifestError("tokenizer: a model in memory needs its own; accepted: et.load(model, tokenizer)")
    name = str(getattr(module, "name_or_path", "") or type(module).__name__)
    nn = of_module(module, tokenizer, name)
    return LoadedModel(name, nn, tokenizer, shape_from(nn.nn.config, name))


def _live(example: Example, positions: Sequence[str]) -> int:
    """How many tokens are recomputed; 0 where whole prompts are."""
    length = len(example.base.tokens)
    return length - min(example.base.positions[name] for name in positions) if positions else 0
