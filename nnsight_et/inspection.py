"""What can be said of a model before a weight is read: its sizes, where its parts are, what works, what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch

from nnsight_et.engine.budget import kept_per_token
from nnsight_et.errors import TaskError, UnsupportedModel
from nnsight_et.models.architecture import Architecture, Projection
from nnsight_et.models.families import architecture
from nnsight_et.models.files import Files, described
from nnsight_et.models.load import configuration, outline, tokenizer_of
from nnsight_et.models.named import NAMED, ModelSpec, Shape
from nnsight_et.tasks.boxes import POSITIONS, Boxes

DTYPES = ("float32", "bfloat16")
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


def inspected(name: str) -> Inspection:
    """The model known by that name, or in that folder, or with that hub id.

    UnsupportedModel if there is no configuration, or none whose models can be run exactly.
    """
    spec = NAMED[name].spec if name in NAMED else ModelSpec(name)
    files = described(name, spec)
    config = configuration(files)
    parts, text = architecture(config, name), config.get_text_config()
    shape, module = parts.shape(text), outline(files)
    weights = sum(parameter.numel() for parameter in module.parameters())
    facts = [("architecture", f"{config.model_type} ({type(module).__name__})"), *_sizes(shape)]
    facts += [("sliding window", _windows(parts.windows(text))), ("parameters", f"{weights:,}")]
    if spec.adapter:
        facts.append(("adapter", spec.adapter))
    task, prompt = _task(files)
    support = (*_support(parts, shape), *task)
    return Inspection(
        name, tuple(facts), tuple(_sites(parts, shape, module)), support, tuple(_memory(shape, weights, prompt))
    )


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
        return "none: a token sees all before it"
    layers = "all layers" if len(narrow) == len(windows) else f"layers {', '.join(map(str, narrow))}"
    return f"{windows[narrow[0]]} tokens in {layers}"


def _sites(parts: Architecture, shape: Shape, module: Any) -> Iterator[Site]:
    heads, kv_heads = f"{shape.n_heads} x {shape.d_head}", f"{shape.n_kv_heads} x {shape.d_head}"
    first = attrgetter(parts.layers)(module)[0]

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
    yield site("mlp input", "input", parts.mlp, _mlp_width(parts, shape))
    unembedding = type(attrgetter(parts.unembedding)(module)).__name__
    yield Site("logits", f"output of the model, after {parts.unembedding}", unembedding, str(shape.vocabulary))


def _mlp_width(parts: Architecture, shape: Shape) -> str:
    """Of what enters the MLP's module: the residual's, or where it is only the MLP's second matrix, the MLP's own."""
    return str(shape.d_mlp if parts.mlp_sees == "tokens" else shape.d_model)


def _part(projection: Projection, via: str) -> str:
    order = ("query", "key", "value").index(via) + 1
    texts = {"alone": "", "blocks": f", block {order} of 3", "per head": f", third {order} of each head's"}
    return texts[projection.packed]


def _support(parts: Architecture, shape: Shape) -> Iterator[Row]:
    yield "methods", "all, in both engines; attention patterns with attention: eager"
    yield "attention", " or ".join(parts.implementations) + _only_eager(parts)
    if shape.n_kv_heads < shape.n_heads:
        yield "keys and values", "patched for all query heads that share them, or kv_heads: expanded in a stage"
    yield from (("note", note) for note in parts.notes)


def _only_eager(parts: Architecture) -> str:
    return "" if "sdpa" in parts.implementations else ": put attention: eager in the manifest"


def _task(files: Files) -> tuple[list[Row], int | None]:
    """What the tokenizer makes of the task's prompts, and how many tokens one has; None if it cannot."""
    task, name = Boxes(), "task boxes"
    try:
        tokenizer = tokenizer_of(files)
        (example,) = task.examples(tokenizer, 1, 0, "evaluation")
    except (TaskError, UnsupportedModel) as error:
        return [(name, f"not with this tokenizer: {error}")], None
    tokens, places = len(example.base.tokens), example.base.positions
    begins = tokenizer.bos_token_id is not None and tokenizer.bos_token_id == example.base.tokens[0]
    first = f"the first is {tokenizer.bos_token}" if begins else "the first is of the text"
    at = ", ".join(f"{position} {places[position]}" for position in POSITIONS)
    found = f"every object and label is one token; {tokens} tokens with {task.boxes} boxes, {first}; one has {at}"
    return [(name, found), ("padding", f"token {tokenizer.pad_token_id}, on the left")], tokens


def _memory(shape: Shape, weights: int, prompt: int | None) -> Iterator[Row]:
    for name in DTYPES:
        itemsize = getattr(torch, name).itemsize
        kept = kept_per_token(shape, itemsize)
        yield f"weights, {name}", _amount(weights * itemsize)
        yield f"a captured token, {name}", _amount(kept)
        if prompt:
            yield f"a captured prompt of the task, {name}", _amount(kept * prompt)


def _amount(count: int) -> str:
    size, unit = next((size, unit) for size, unit in UNITS if count >= size)
    return f"{count / size:.1f} {unit}"
