"""What can be said of a model before a run: sizes, places of its parts, what works, what a task needs.

Weights are read only where they decide: an adapter's, and the model's where texts begin without the BOS that there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nnsight_et.core.batch import Example
from nnsight_et.core.errors import TaskError, UnsupportedModel, quantity
from nnsight_et.core.notices import Notice
from nnsight_et.core.turns import makes_turns
from nnsight_et.engine.budget import chunk_bytes, chunks, kept_per_token
from nnsight_et.manifest import BoxesTask, Manifest
from nnsight_et.measuring.examples import task_of
from nnsight_et.models.adapters import attach_adapter, has_weights, read_settings, summary
from nnsight_et.models.architecture import Architecture, Lacking, Projection
from nnsight_et.models.bos_here import BosFound, bos_here
from nnsight_et.models.catalog import KNOWN_MODELS, ModelSpec, Shape
from nnsight_et.models.families import architecture
from nnsight_et.models.files import Files, describe_files
from nnsight_et.models.gguf_file import quantization_note
from nnsight_et.models.load import configuration, outline, tokenizer_of
from nnsight_et.planning.plan import model_choice
from nnsight_et.tasks.answers import text_of
from nnsight_et.tasks.encoding import trailing_tokens
from nnsight_et.tasks.own_pairs import OwnPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16")
PROMPTS = 20  # that are looked at, of a task that makes them
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
Row = tuple[str, str]


@dataclass(frozen=True)
class Site:
    """One of the places that methods read and replace: in which module, of which class, and how wide it is."""

    what: str
    where: str
    module: str
    width: str


@dataclass(frozen=True)
class Inspection:
    """A model as its configuration describes it; rows are what was looked at and what was found."""

    name: str
    facts: tuple[Row, ...]
    sites: tuple[Site, ...]
    support: tuple[Row, ...]
    memory: tuple[Row, ...]
    notices: tuple[Notice, ...] = ()
    """What to know before it is used."""


@dataclass(frozen=True)
class Use:
    """What a model is looked at for."""

    task: Any
    """What measuring.examples.task_of takes."""
    seed: int
    """Of the task's prompts."""
    memory: int | None
    """The budget in bytes; None: chosen by the engine."""
    dtypes: tuple[str, ...]


def inspect_model(name: str, manifest: Manifest | None = None) -> Inspection:
    """The model known by that name, or in that folder, or with that hub id; or what it is in the manifest.

    Its prompts are the manifest's, or those of the boxes task. UnsupportedModel if there is no configuration, or none
    whose models can be run exactly, or an adapter that cannot be or does not fit; ManifestError if the manifest's
    file of pairs cannot be read.
    """
    spec, use = KNOWN_MODELS[name].spec if name in KNOWN_MODELS else _spec_at(name), Use(BoxesTask(), 0, None, DTYPES)
    if manifest is not None:
        choice = model_choice(manifest, name)
        spec = choice.spec
        use = Use(manifest.task_data(), manifest.seed, manifest.memory_bytes, (choice.dtype,))
    files = describe_files(name, spec)
    config = configuration(files)
    parts, module = architecture(config, name), outline(files)
    adapter = list(_adapter(spec, files, module))
    text = module.config.get_text_config()  # an adapter can have given it more words
    shape, weights = parts.shape(text), _count(module)
    facts = [("architecture", f"{config.model_type} ({type(module).__name__})"), *_sizes(shape)]
    facts += [("sliding window", _windows(parts.windows(text))), ("parameters", f"{weights:,}")]
    if files.gguf:
        facts.append(("weights", quantization_note(name, files.gguf)))
    facts += adapter
    task, longest = _task(files, use)
    positions = ("positions", _positions(parts.longest(text), getattr(text, "max_position_embeddings", None), longest))
    begins = _begins(files, use.dtypes[0])
    lacking = parts.lacking(text)
    support = (*_support(parts, shape), *_lacking(lacking), positions, ("beginning of text", begins.text), *task)
    memory = tuple(_memory(shape, weights, longest, use))
    return Inspection(name, tuple(facts), tuple(_sites(parts, shape, module, lacking)), support, memory, begins.notices)


def _begins(files: Files, dtype: str) -> BosFound:
    """How texts begin. A tokenizer that cannot be read is reported with the task's prompts."""
    try:
        return bos_here(files, dtype)
    except UnsupportedModel:
        return BosFound("not known without its tokenizer")


def _spec_at(place: str) -> ModelSpec:
    """The model in a folder, with a hub id, or in a GGUF file of a folder."""
    path = Path(place)
    return ModelSpec(str(path.parent), gguf=path.name) if path.suffix.lower() == ".gguf" else ModelSpec(place)


def _adapter(spec: ModelSpec, files: Files, module: Any) -> Iterator[Row]:
    """What the adapter is, put into the model's modules if its weights are here; nothing without an adapter."""
    if not spec.adapter or not files.adapter:
        return
    settings = read_settings(files.adapter, files.name)
    yield "adapter", spec.adapter
    yield "of the kind", summary(settings)
    yield "made for", str(settings.get("base_model_name_or_path") or "an unnamed model")
    if not has_weights(files.adapter):
        yield "whether it fits", "not known: its weights are not here"
        return
    before = _count(module)
    attach_adapter(module, files.adapter, files.name)
    yield "whether it fits", f"yes: it adds {_count(module) - before:,} parameters"


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _sizes(shape: Shape) -> Iterator[Row]:
    group = shape.n_heads // shape.n_kv_heads
    yield "layers", str(shape.n_layers)
    yield "heads", str(shape.n_heads)
    shared = "one for each query head" if group == 1 else f"each shared by {group} query heads"
    yield "kv heads", f"{shape.n_kv_heads}, {shared}"
    yield "d_head", str(shape.d_head)
    yield "d_model", str(shape.d_model)
    yield "d_mlp", f"{shape.d_mlp}" + (f" of {shape.d_experts} in all experts" if shape.d_experts else "")
    yield "vocabulary", str(shape.vocabulary)


def _windows(windows: tuple[int | None, ...]) -> str:
    narrow = [layer for layer, window in enumerate(windows) if window is not None]
    if not narrow:
        return "none: a token sees all earlier tokens"
    layers = "all layers" if len(narrow) == len(windows) else f"layers {', '.join(map(str, narrow))}"
    return f"{windows[narrow[0]]} tokens in {layers}"


def _lacking(lacking: Lacking) -> Iterator[Row]:
    """What heads of some layers do not have to themselves."""
    reasons: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for layer, reason in lacking.items():
        reasons.setdefault(reason, []).append(layer)
    for (vias, why), layers in reasons.items():
        yield f"no {' or '.join(vias)}", f"in {quantity(len(layers), 'layer')} ({', '.join(map(str, layers))}): {why}"


def _sites(parts: Architecture, shape: Shape, module: Any, lacking: Lacking) -> Iterator[Site]:
    heads, kv_heads = f"{shape.n_heads} x {shape.d_head}", f"{shape.n_kv_heads} x {shape.d_head}"
    whole = next((layer for layer in range(shape.n_layers) if layer not in lacking), 0)
    first = attrgetter(parts.layers)(module)[whole]

    def site(what: str, side: str, path: str, width: str, part: str = "") -> Site:
        kind = type(attrgetter(path)(first)).__name__
        return Site(what, f"{side} of {parts.layers}.*.{path}{part}", kind, width)

    embedded = " + ".join(parts.embeddings)
    yield Site("residual", f"{embedded}, then output of {parts.layers}.*", type(first).__name__, str(shape.d_model))
    yield site("z", "input", parts.attention_out, heads)
    for via, width in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
        projection = parts.projection(via)
        yield site(via, "output", projection.site, width, _part(projection, via))
    for what, path in (("attention", parts.attention_norm or parts.attention), ("mlp", parts.mlp_norm or parts.mlp)):
        yield site(what, "output", path, str(shape.d_model))
    # what enters the MLP's module is the residual, or where that is only the MLP's second matrix, the MLP's own
    yield site("mlp input", "input", parts.mlp, str(shape.d_mlp if parts.mlp_sees == "tokens" else shape.d_model))
    unembedding = type(attrgetter(parts.unembedding)(module)).__name__
    yield Site("logits", f"output of the model, after {parts.unembedding}", unembedding, str(shape.vocabulary))


def _part(projection: Projection, via: str) -> str:
    order = ("query", "key", "value").index(via) + 1
    within = f", part {order} of 3 in each kv head's group"
    texts = {
        "alone": "",
        "blocks": f", block {order} of 3",
        "per group": within,
        "gated": ", the first half of each head's",
    }
    return texts[projection.packed]


def _support(parts: Architecture, shape: Shape) -> Iterator[Row]:
    yield "methods", "all, in both engines; attention patterns with attention: eager"
    eager = "" if "sdpa" in parts.implementations else ": put attention: eager in the manifest"
    yield "attention", " or ".join(parts.implementations) + eager
    if shape.n_kv_heads < shape.n_heads:
        yield "keys and values", "patched for all query heads that share them, or kv_heads: expanded in a stage"
    yield from (("note", note) for note in parts.notes)


def _positions(table: int | None, trained: int | None, longest: int) -> str:
    """How many tokens a prompt can have, and whether the task's prompts fit."""
    if table is not None:
        return f"a table of {table}: " + ("the task's prompts fit" if longest <= table else f"{longest} are refused")
    if trained is None or longest <= trained:
        return f"no limit; max_position_embeddings is {trained}"
    return f"no limit, but prompts of {longest} tokens exceed max_position_embeddings, {trained}: answers may be poor"


def _task(files: Files, use: Use) -> tuple[list[Row], int]:
    """What the tokenizer makes of the task's prompts, and how many tokens the longest has; 0 if they do not fit it."""
    name = f"task {use.task.identity['kind']}"
    try:
        tokenizer = tokenizer_of(files)
        examples, of = _examples(use, tokenizer)
    except (TaskError, UnsupportedModel) as error:
        return [(name, f"not with this tokenizer: {error}")], 0
    base = examples[0].base
    begins = tokenizer.bos_token_id is not None and tokenizer.bos_token_id == base.tokens[0]
    first = f"the first is {tokenizer.bos_token}" if begins else "the first is from the text"
    ending = trailing_tokens(tokenizer)
    first += f", without the {ending} that the tokenizer appends" if ending else ""
    at = ", ".join(f"{position} {base.positions[position]}" for position in base.positions)
    shortest, longest = min(one.length for one in examples), max(one.length for one in examples)
    lengths = f"{longest} tokens" if shortest == longest else f"{shortest} to {longest} tokens"
    found = f"fits the tokenizer; {lengths} in {of}, {first}; one has {at}"
    rows = [(name, found), ("padding", f"token {tokenizer.pad_token_id}, on the left")]
    if makes_turns(tokenizer):
        rows.append(("sent, as a chat", repr(text_of(base, tokenizer))))
    return rows, longest


def _examples(use: Use, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], str]:
    """Some of the task's examples, the longest among them where they are from a file; and what they are."""
    task = task_of(use.task)
    if isinstance(task, OwnPairs):
        line, longest = task.longest(tokenizer)
        return [longest], f"{line}, the longest of {len(task.pairs)} pairs"
    return task.examples(tokenizer, PROMPTS, use.seed, "evaluation"), f"{PROMPTS} examples"


def _memory(shape: Shape, weights: int, prompt: int, use: Use) -> Iterator[Row]:
    for name in use.dtypes:
        itemsize = getattr(torch, name).itemsize
        kept = kept_per_token(shape, itemsize)
        yield f"weights, {name}", _amount(weights * itemsize)
        yield f"a captured token, {name}", _amount(kept)
        if prompt:
            chosen = chunks(shape, itemsize, prompt, use.memory)
            needed = chunk_bytes(shape, itemsize, prompt, chosen)
            yield f"a captured prompt of the task, {name}", _amount(kept * prompt)
            of = f"{chosen.examples} prompts, {chosen.tokens} tokens a pass"
            yield f"a chunk of work, {name}: {of}", _amount(needed)
            yield f"weights and a chunk, {name}", _amount(weights * itemsize + needed)


def _amount(count: int) -> str:
    size, unit = next((size, unit) for size, unit in UNITS if count >= size)
    return f"{count / size:.1f} {unit}"
