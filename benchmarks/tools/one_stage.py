"""What a screen saves of one stage: time in plain forward passes, and bytes of all tensors at once."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import nnsight_et as et
from benchmarks.allocated import Allocated
from benchmarks.engine import paths
from benchmarks.setting import HEADLINE, Size, llama, prompts, traced
from benchmarks.tools.races import StageOfModel
from benchmarks.tools.token_layers import counted_token_layers
from nnsight_et.circuits.published import circuit
from nnsight_et.core.batch import collate
from nnsight_et.core.circuit import Head
from nnsight_et.engine.budget import DEFAULT_BYTES, chunks
from nnsight_et.engine.paths import End, Path, StageReads
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.models.catalog import EMBEDDED
from nnsight_et.models.model import Model
from nnsight_et.tasks.ioi import IOI

FORWARD = 8
"""How many prompts a plain forward pass has."""
KEEP = 4
SEED = "20"


def headline(rounds: int, examples: int = 96, size: Size = HEADLINE) -> dict[str, Any]:
    """Value at the previous label, four heads kept: forwards of eight prompts per head and eight prompts.

    Of benchmarks.engine's random Llama, into its four receivers, and of the embedded model, into its circuit's. Runs
    and estimates count. Medians of the processor's seconds over rounds in which everything runs once.
    """
    embedded = AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama-tiny", dtype=torch.float32).eval()
    readers = next(group.heads for group in circuit("llama-tiny").groups if group.name == "position_detector")
    path = paths(size)["value at previous label"]
    models: dict[str, tuple[Any, Path]] = {
        "random Llama": (llama(size), path),
        "llama-tiny": (embedded.requires_grad_(False), Path(path.at, "value", tuple(sorted(readers)))),
    }
    found = {name: _forwards(module, path, rounds, examples) for name, (module, path) in models.items()}
    return {"examples": examples, "rounds": rounds, "models": found}


def _forwards(module: Any, path: Path, rounds: int, examples: int) -> dict[str, Any]:
    model, some = replace(traced(module), runs={}), prompts(examples)
    stage = StageOfModel(model, some, path, path.reaching(model.n_layers, model.n_heads), "probability_ratio")
    run, heads = collate(some[:FORWARD]).base, model.n_layers * model.n_heads

    def forward() -> None:
        with torch.no_grad():
            module(input_ids=run.tokens, attention_mask=run.mask, position_ids=run.position_ids, use_cache=False)

    work = {
        "forward": forward,
        "all prompts": stage.measure,
        "first: 4": lambda: stage.race(Screen(first=4), KEEP, SEED),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    found, counted = dict[str, Any](), dict[str, int]()
    for _ in range(rounds):
        for name, function in work.items():
            with counted_token_layers() as count:
                start = time.process_time()
                found[name] = function()
                seconds[name].append(time.process_time() - start)
            counted[name] = count[0]
    per = heads * examples / FORWARD
    forwards = {
        name: statistics.median(one / unit for one, unit in zip(times, seconds["forward"], strict=True)) / per
        for name, times in seconds.items()
        if name != "forward"
    }
    race, means = found["first: 4"], found["all prompts"].mean(-1)
    best = means.argsort()[:KEEP].tolist()
    return {
        "heads": heads,
        "forwards_per_head": forwards,
        "token_layers": counted,
        "pairs": race.prompts.double().mean().item() / examples,
        "same_kept": {*best} <= {*race.whole},
    }


def bytes_held(folder: str, examples: int) -> dict[str, Any]:
    """The most bytes of tensors at once, weights included, in the stage into values at S2, with a screen and without.

    Receivers are the heads that matter most to the queries of the three that matter most to the logits, on four
    prompts. Without a screen the heads of two layers are enough: a pass has heads of one.
    """
    loaded = et.load(folder, device="cpu")
    model = replace(loaded.model, runs={}, reads_words=loaded.model.has_plain_head)
    some = IOI(templates=1).examples(loaded.tokenizer, examples, int(SEED), "discovery")
    sizes = chunks(loaded.shape, 4, max(one.base.length for one in some), DEFAULT_BYTES)
    path = Path("s2", "value", _receivers(model, some[:4]))
    senders = path.reaching(model.n_layers, model.n_heads)
    top = max(one.layer for one in senders)  # of what this stage may keep, the last stage's receivers
    keys = StageReads("s1_plus_1", "heads", frozenset(range(top + 1)), top)
    stage = StageOfModel(model, some, path, senders, "logit_difference", sizes, (keys,))
    ends = {senders[0].layer, senders[-1].layer}
    fewer = replace(stage, senders=[one for one in senders if one.layer in ends])
    weights = sum(one.nbytes for one in model.nn._module.parameters())
    found = {"weights": weights}
    for name, work in {
        "all prompts": fewer.measure,
        "first: 4": lambda: stage.race(Screen(first=4), min(8, len(senders) // 2), SEED),
    }.items():
        with Allocated() as counter:
            work()
        found[name] = weights + counter.peak
        found[f"{name}, afterwards"] = weights + counter.now
    receivers = list(map(str, path.receivers))
    share = found["first: 4"] / found["all prompts"]
    return {
        "model": FilePath(folder).name,
        "examples": examples,
        "receivers": receivers,
        "bytes": found,
        "ratio": share,
    }


def _receivers(model: Model, some: Any) -> tuple[Head, ...]:
    found: tuple[Head, ...] = ()
    stages: tuple[tuple[End | None, int], ...] = ((None, 3), ("query", 4))
    for via, count in stages:
        path = Path("last", via, found)
        senders = path.reaching(model.n_layers, model.n_heads)
        means = StageOfModel(model, some, path, senders, "logit_difference").measure().mean(-1)
        found = tuple(sorted(Head(*senders[number]) for number in means.argsort()[:count].tolist()))
    return found
