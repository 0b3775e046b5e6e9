"""The models and prompts that are measured, and how: rounds in which everything runs once, and medians over rounds."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.batch import Example, Pair, collate
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.models.load import wrap_model
from nnsight_et.models.model import Model
from nnsight_et.tasks.boxes import Boxes

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Size:
    """A Llama with random weights, and how many prompts a batch has."""

    layers: int = 8
    heads: int = 8
    kv_heads: int = 8
    d_model: int = 256
    d_head: int = 32
    d_mlp: int = 688
    batch: int = 8


HEADLINE = Size()
SMALL = Size(heads=4, kv_heads=4, d_model=32, d_head=8, d_mlp=48, batch=3)
SIZES = {"headline": HEADLINE, "small": SMALL}


def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded models': one token a word, so that a prompt of seven boxes has Llama's 54 tokens."""
    return PreTrainedTokenizerFast.from_pretrained(EMBEDDED / "tokenizer")


def llama(size: Size, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of this size with random weights, frozen."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=size.d_model,
        intermediate_size=size.d_mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.d_head,
        max_position_embeddings=128,
        initializer_range=0.8 / size.d_model**0.5,  # 0.05 for the headline: heads matter in every size
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)


def traced(module: LlamaForCausalLM) -> Model:
    """The same model under nnsight."""
    return wrap_model(TransformersModel(module, task="text-generation", tokenizer=tokenizer()), "benchmark")


def examples(size: Size) -> list[Example]:
    """As many prompts as a batch has."""
    return prompts(size.batch)


def prompts(count: int) -> list[Example]:
    """Prompts whose queries go evenly over the seven boxes."""
    by_box: dict[int, list[Example]] = {}
    for example in Boxes(7).examples(tokenizer(), 40 * count, 0, "discovery"):
        by_box.setdefault(example.base.positions["previous_query_label"], []).append(example)
    places = sorted(by_box)
    return [by_box[places[index % len(places)]][index // len(places)] for index in range(count)]


def batches(some: Sequence[Example], at: str) -> list[Pair]:
    """The examples as a run batches them: those with equally many tokens from the position on together."""
    groups: dict[int, list[Example]] = {}
    for example in some:
        groups.setdefault(len(example.base.tokens) - example.base.positions[at], []).append(example)
    return [collate(group) for group in groups.values()]


def receivers(layers: Sequence[int], heads: int) -> tuple[Head, ...]:
    """One head in each of the layers."""
    return tuple(Head(layer, (3 * layer) % heads) for layer in layers)


def circuit(size: Size, per_group: int = 4) -> Circuit:
    """Four groups of heads at the positions of the paper's circuit, lower groups in lower layers."""
    places = {"value_fetcher": "last", "position_transmitter": "last", "position_detector": "query_label"}
    groups, quarter = [], size.layers // 4
    for index, (name, at) in enumerate((places | {"structure_reader": "previous_query_label"}).items()):
        lowest = size.layers - quarter * (index + 1)
        heads = (Head(lowest + i % quarter, (5 * i + index) % size.heads) for i in range(per_group))
        groups.append(HeadGroup(name, at, tuple(sorted(set(heads)))))
    return Circuit(tuple(groups))


def medians(work: Mapping[str, Callable[[], Any]], unit: str, rounds: int) -> dict[str, float]:
    """Name -> median over the rounds of its time over that of `unit` in the same round; a first round warms up."""
    ratios: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        seconds = {name: timed(function) for name, function in work.items()}
        if number:
            for name, value in seconds.items():
                ratios[name].append(value / seconds[unit])
    return {name: statistics.median(values) for name, values in ratios.items()}


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one call, with everything a device was given finished."""
    _finish()
    start = time.perf_counter()
    function()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def named(benchmark: str, size: str) -> str:
    """The name of its results: another size's do not replace the headline's."""
    return benchmark if size == "headline" else f"{benchmark}_{size}"


def written(name: str, data: dict[str, Any]) -> Path:
    """Put the numbers, and what they were taken with, into results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    packages = {package: version(package) for package in ("nnsight", "torch", "transformers")}
    machine = {"python": platform.python_version(), "threads": torch.get_num_threads()} | packages
    path.write_text(json.dumps({"with": machine} | data, indent=2) + "\n")
    return path
