"""A model to work on: by name, from files or the hub, or one that is already in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.batch import Example, Pair, check_lengths, collate
from nnsight_et.engine.budget import Chunks, chunks
from nnsight_et.errors import ManifestError, UnsupportedModel, accepted, brief, quantity
from nnsight_et.jobs.cells import batches
from nnsight_et.models.files import found
from nnsight_et.models.load import loaded, shape_from, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.models.named import NAMED, ModelSpec, Shape
from nnsight_et.models.own import ATTENTION, of_module

DTYPES = ("float32", "bfloat16", "float16", "float64")
ENGINES = ("default", "reference")
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

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ManifestError(f"engine: {self.engine!r}; {accepted(str(self.engine), ENGINES)}")
        if self.memory is not None and (not isinstance(self.memory, int) or self.memory < 1):
            raise ManifestError(f"memory: {self.memory!r}; accepted: how many bytes a pass may take, such as 4 << 30")

    def __repr__(self) -> str:
        sizes = f"{quantity(self.shape.n_layers, 'layer')} of {quantity(self.shape.n_heads, 'head')}"
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
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    attention: Literal["sdpa", "eager"] = "sdpa",
) -> LoadedModel:
    """The model called `model`: a name that `et models` lists, a folder, a hub id, or a transformers model in memory.

    A model in memory needs its tokenizer, is frozen and set to eval mode, and keeps its dtype, device and attention.
    device None is "cuda" where there is a GPU, else "cpu"; "balanced" spreads layers over all GPUs. UnsupportedModel
    if it cannot be found, read or taken apart.
    """
    if not isinstance(model, (str, Path)):
        return _in_memory(model, tokenizer)
    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        raise ManifestError(
            "tokenizer: a tokenizer in memory goes with a model in memory; accepted: a folder or hub id"
        )
    model = str(model)
    _check_known(model)
    known = NAMED[model].spec if model in NAMED else ModelSpec(model)
    places = (one if one is None else str(one) for one in (adapter or known.adapter, tokenizer or known.tokenizer))
    spec = ModelSpec(known.path, next(places), tokenizer=next(places))
    kind, where = _one_of(str(dtype).removeprefix("torch."), DTYPES, "dtype"), _device(device)
    files = found(model, spec)
    nn = loaded(files, kind, where, _one_of(attention, ATTENTION, "attention"))
    return LoadedModel(model, nn, tokenizer_of(files), shape_from(nn.nn.config, model))


def _check_known(model: str) -> None:
    """Raise UnsupportedModel with the nearest names if it is none, and can be neither a folder nor a hub id."""
    if model not in NAMED and "/" not in model and not Path(model).is_dir():
        raise UnsupportedModel(f"model: no model named {model!r}; {accepted(model, NAMED)}, a folder, or a hub id")


def _one_of(found: str, names: Sequence[str], where: str) -> str:
    if found not in names:
        raise ManifestError(f"{where}: {found!r}; {accepted(str(found), names)}")
    return found


def _device(wanted: object) -> str:
    """The device that is meant; ManifestError if there is none such here."""
    if wanted is None or wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = str(wanted).partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ("cuda", "balanced", "cpu") if count else ("cpu",)
    if kind in known and (not index or (index.isdecimal() and int(index) < max(count, 1))):
        return str(wanted)
    here = f"cuda:0 to cuda:{count - 1}, balanced" if count else "here is no CUDA device"
    raise ManifestError(f"device: {wanted!r}; accepted: auto, cpu; {here}")


def _in_memory(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | str | Path | None) -> LoadedModel:
    if not isinstance(module, torch.nn.Module):
        raise ManifestError(f"model: {brief(module)}; accepted: a name, a folder, a hub id, or a transformers model")
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        raise ManifestError("tokenizer: a model in memory needs its own; accepted: et.load(model, tokenizer)")
    name = str(getattr(module, "name_or_path", "") or type(module).__name__)
    nn = of_module(module, tokenizer, name)
    return LoadedModel(name, nn, tokenizer, shape_from(module.config, name))


def _live(example: Example, positions: Sequence[str]) -> int:
    """How many tokens are recomputed; 0 where whole prompts are."""
    length = len(example.base.tokens)
    return length - min(example.base.positions[name] for name in positions) if positions else 0
