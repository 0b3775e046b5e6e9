"""A model to work on: by name, from files or the hub, or one that is already in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Pair, check_lengths, check_tokens, collate, padded_batch
from nnsight_et.core.errors import ManifestError, UnsupportedModel, accepted_names, brief, quantity
from nnsight_et.core.notices import Notice
from nnsight_et.engine.budget import Chunks, chunks
from nnsight_et.interventions.answers import plain_answers
from nnsight_et.manifest.chat import read_chat
from nnsight_et.measuring.chance import PROBED, asked_of, chance_notices, choice_of, right_answers
from nnsight_et.measuring.steps import batches
from nnsight_et.measuring.tokens import end_notices
from nnsight_et.models.catalog import KNOWN_MODELS, ModelSpec, Shape
from nnsight_et.models.files import download_files
from nnsight_et.models.in_memory import ATTENTION, from_module, hook_notices
from nnsight_et.models.load import load_model, shape_from, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.models.tokenizing import bos_notices, set_bos, set_chat
from nnsight_et.models.wrapped import unwrap

if TYPE_CHECKING:
    from peft import PeftModel

DTYPES = ("float32", "bfloat16", "float16", "float64")
ENGINES = ("default", "reference")
Measure = Callable[[Pair, Chunks], dict[str, Tensor]]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with its tokenizer.

    Change its settings with `dataclasses.replace(model, engine="reference")`. engine: "reference" runs the literal
    definition over whole prompts, slowly, for checking. memory: how many bytes one pass may take. probe: "off" skips
    the check for chance before a method measures; `notices` has what is known about the model without it. self_check:
    "off" skips measuring a sample of each method's numbers again with the reference engine.

    Examples:
        >>> from dataclasses import replace
        >>> import nnsight_et as et
        >>> replace(et.load("llama-tiny", device="cpu"), engine="reference").engine
        'reference'
    """

    name: str
    model: Model
    tokenizer: PreTrainedTokenizerBase
    shape: Shape
    engine: Literal["default", "reference"] = "default"
    memory: int | None = None
    notices: tuple[Notice, ...] = ()
    probe: Literal["on", "off"] = "on"
    self_check: Literal["on", "off"] = "on"
    _looked: dict[Any, tuple[Notice, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ManifestError(f"engine: {self.engine!r}; {accepted_names(str(self.engine), ENGINES)}")
        if self.memory is not None and (not isinstance(self.memory, int) or self.memory < 1):
            raise ManifestError(f"memory: {self.memory!r}; accepted: how many bytes a pass may take, such as 4 << 30")

    def __repr__(self) -> str:
        sizes = f"{quantity(self.shape.n_layers, 'layer')} of {quantity(self.shape.n_heads, 'head')}"
        known = "".join(f"\n{notice}" for notice in self.notices)
        return f"<{self.name}: {sizes}, {self.model.dtype} on {self.model.device}>{known}"

    def measure_batches(
        self, examples: Sequence[Example], positions: Sequence[str], measure: Measure
    ) -> dict[str, Tensor]:
        """By name [..., example]: what `measure` makes of batches, put together in the order of the examples.

        The prompts of a batch have as many tokens from the first of `positions` on; without positions, any number.
        """
        sizes = [(_live(example, positions), len(example.base.tokens)) for example in examples]
        chosen = self._chunks(max(length for _, length in sizes), examples)
        parts, order = [], []
        for batch in batches(sizes, chosen.examples):
            pair = collate([examples[index] for index in batch], self.pad).to(self.model.device)
            parts.append(measure(pair, chosen))
            order += batch
        back = torch.tensor(order).argsort()
        return {name: torch.cat([part[name] for part in parts], -1)[..., back] for name in parts[0]}

    def _chunks(self, length: int, examples: Sequence[Example]) -> Chunks:
        read = max(one.read for one in examples)
        return chunks(self.shape, self.model.dtype.itemsize, length, self.memory, read)

    def collect_notices(self, examples: Sequence[Example]) -> tuple[Notice, ...]:
        """What to know before numbers measured on these examples are read: of the model, and of what it answers.

        The first PROBED of them, or as many as memory has room for, are answered once, whatever is measured on them.
        """
        if self.probe == "off":
            return self.notices
        length = max(len(one.base.tokens) for one in examples)
        most = self._chunks(length, examples).examples
        some = examples[: min(PROBED, most)]
        key = tuple((one.base.tokens, one.right, one.wrong) for one in some)
        if key not in self._looked:
            choice = choice_of(some, self.shape.vocabulary)
            run = padded_batch([one.base for one in some], self.pad).to(self.model.device)
            asked = asked_of(some, choice, slice(None)).to(self.model.device)
            found = plain_answers(self.model, run, asked)
            self._looked[key] = tuple(chance_notices(self.name, choice, right_answers(some, choice, **found)))
        return self.notices + self._looked[key]

    def require_pairs_fit(self, examples: list[Example]) -> list[Example]:
        """The same examples; TaskError if the model has no positions or rows for a prompt's tokens."""
        most = self.model.parts.longest(self.model.nn.config.get_text_config())
        check_lengths(examples, most, "pairs", self.name)
        check_tokens(examples, self.shape.vocabulary, "pairs", self.name)
        return examples

    @property
    def pad(self) -> int:
        """The padding token."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int), "loading gave it one"
        return pad


def load(
    model: str | Path | PreTrainedModel | PeftModel | Any,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    gguf: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention: Literal["sdpa", "eager"] | None = None,
    bos: Literal["add", "none"] | None = None,
    chat: bool | str | Path | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer, ready for measurements.

    A model in memory needs its tokenizer, is frozen and set to eval mode, and keeps its dtype, device and attention:
    other values are refused, and so are `adapter` and `gguf`. The active adapters of a PeftModel run. Models of nnsight
    and bridges of TransformerLens come with their tokenizer. Their weights are shared, and a bridge is not changed.

    Args:
        model: A name that `et models` lists, a folder, a hub id, or a model in memory: of transformers or peft,
            nnsight's LanguageModel or TransformersModel, or TransformerLens' TransformerBridge.
        tokenizer: Its folder or hub id, if it is not with the model; for a model in memory, the tokenizer itself.
        adapter: Folder or hub id of an adapter to apply to the model.
        gguf: A file in the model's folder to read the weights from, as plain numbers
            (pip install 'nnsight-et[gguf]').
        dtype: "float32" (the default), "bfloat16", "float16" or "float64".
        device: By default "cuda" if there is a GPU, else "cpu". "balanced" spreads layers over all GPUs.
        attention: "sdpa" (the default) or "eager".
        bos: "add" begins every text with one BOS; "none" leaves it off. By default the tokenizer decides.
        chat: True sends base and source as a user's messages in the tokenizer's chat template; the answer then begins
            the reply. The name of a template, or a file with one in Jinja, chooses that template. `pairs.sent(model)`
            shows what the model receives.

    Returns:
        A LoadedModel, which every function takes.

    Raises:
        UnsupportedModel: The model cannot be found or read, or is built in a way that the methods do not support.
        ManifestError: An argument is not one of these values.

    Examples:
        >>> import nnsight_et as et
        >>> et.load("llama-tiny", device="cpu")
        <llama-tiny: 6 layers of 8 heads, torch.float32 on cpu>
    """
    if bos not in (None, "add", "none"):
        raise ManifestError(f"bos: found {bos!r}; accepted: add, none, or None where the tokenizer decides")
    template = read_chat(str(chat) if isinstance(chat, Path) else chat, Path())
    if not isinstance(model, (str, Path)):
        inside = unwrap(model)
        if inside is not None:
            found = load(inside.module, tokenizer or inside.tokenizer, adapter=adapter, gguf=gguf, dtype=dtype,
                         device=device, attention=attention, bos=bos, chat=chat)  # fmt: skip
            return replace(found, notices=(*inside.notices, *found.notices))
        _check_as_it_is(model, {"adapter": adapter, "gguf": gguf}, dtype, device, attention)
        return _in_memory(model, tokenizer, bos, template)
    if tokenizer is not None and not isinstance(tokenizer, (str, Path)):
        raise ManifestError("tokenizer: a tokenizer in memory needs a model in memory; accepted: a folder or hub id")
    model = str(model)
    _check_known(model)
    known = KNOWN_MODELS[model].spec if model in KNOWN_MODELS else ModelSpec(model)
    places = (one if one is None else str(one) for one in (adapter or known.adapter, tokenizer or known.tokenizer))
    spec = ModelSpec(known.path, next(places), tokenizer=next(places), gguf=gguf, bos=bos, chat=template)
    kind, where = _dtype("float32" if dtype is None else dtype), _device(device)
    files = download_files(model, spec)
    nn = load_model(files, kind, where, _one_of("sdpa" if attention is None else attention, ATTENTION, "attention"))
    return _with_notices(LoadedModel(model, nn, tokenizer_of(files), shape_from(nn.nn.config, model)))


def _with_notices(model: LoadedModel) -> LoadedModel:
    """The same model, with what is to be known also of how its prompts begin and end."""
    begun = bos_notices(model.name, model.tokenizer, model.model)
    return replace(model, notices=(*model.notices, *begun, *end_notices(model.name, model.tokenizer)))


def _check_known(model: str) -> None:
    """Raise UnsupportedModel with the nearest names if it is none, and can be neither a folder nor a hub id."""
    if model not in KNOWN_MODELS and "/" not in model and not Path(model).is_dir():
        raise UnsupportedModel(
            f"model: no model named {model!r}; {accepted_names(model, KNOWN_MODELS)}, a folder, or a hub id"
        )


def _one_of(found: str, names: Sequence[str], where: str) -> str:
    if found not in names:
        raise ManifestError(f"{where}: {found!r}; {accepted_names(str(found), names)}")
    return found


def _dtype(wanted: str | torch.dtype) -> str:
    return _one_of(str(wanted).removeprefix("torch."), DTYPES, "dtype")


def _device(wanted: object) -> str:
    """The device that is meant; ManifestError if there is none such here."""
    if wanted is None or wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = str(wanted).partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ("cuda", "balanced", "cpu") if count else ("cpu",)
    if kind in known and (not index or (index.isdecimal() and int(index) < max(count, 1))):
        return str(wanted)
    here = f", cuda:0 to cuda:{count - 1}, balanced" if count else " (there is no CUDA device here)"
    raise ManifestError(f"device: {wanted!r}; accepted: auto, cpu{here}")


def _check_as_it_is(
    module: object,
    files: Mapping[str, object],
    dtype: str | torch.dtype | None,
    device: str | torch.device | None,
    attention: str | None,
) -> None:
    """Raise ManifestError if an option asks of a model in memory what it is not; `files` are those of files alone."""
    for key, value in files.items():
        if value is not None:
            accept = f"{key} with a folder or hub id; for a model in memory, an adapter that peft has applied to it"
            raise ManifestError(f"{key}: {str(value)!r} for a model in memory; accepted: {accept}")
    wanted = {
        "dtype": dtype and _dtype(dtype),
        "device": device and _device(device),
        "attention": attention and _one_of(attention, ATTENTION, "attention"),
    }
    own = {
        "dtype": str(getattr(module, "dtype", "")).removeprefix("torch."),
        "device": str(getattr(module, "device", "")),
        "attention": str(getattr(getattr(module, "config", None), "_attn_implementation", "")),
    }
    for key, value in own.items():
        if value and wanted[key] and wanted[key] not in (value, value.partition(":")[0]):
            accept = f"{value}, or no {key}: a model in memory is used as it is"
            raise ManifestError(f"{key}: {wanted[key]}, but the model in memory has {value}; accepted: {accept}")


def _in_memory(
    module: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    bos: Literal["add", "none"] | None,
    chat: bool | str | None,
) -> LoadedModel:
    if not isinstance(module, torch.nn.Module):
        raise ManifestError(f"model: {brief(module)}; accepted: a name, a folder, a hub id, or a transformers model")
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        raise ManifestError("tokenizer: a model in memory needs its own; accepted: et.load(model, tokenizer)")
    name = str(getattr(module, "name_or_path", "") or type(module).__name__)
    nn = from_module(module, tokenizer, name)
    if chat:
        if bos is not None:
            raise ManifestError(
                f"bos: {bos} with chat, whose template decides how prompts begin; accepted: one of the two"
            )
        tokenizer = deepcopy(tokenizer)
        set_chat(tokenizer, chat, name)
    if bos is not None:
        tokenizer = deepcopy(tokenizer)
        set_bos(tokenizer, bos, name, nn.nn.config)
    notices = tuple(hook_notices(module, name))
    return _with_notices(LoadedModel(name, nn, tokenizer, shape_from(nn.nn.config, name), notices=notices))


def _live(example: Example, positions: Sequence[str]) -> int:
    """How many tokens are recomputed; 0 where whole prompts are."""
    length = len(example.base.tokens)
    return length - min(example.base.positions[name] for name in positions) if positions else 0
