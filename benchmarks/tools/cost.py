"""What path patching costs here and in TransformerLens, counted and timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from benchmarks.tools.races import StageOfModel
from nnsight_et.api.models import LoadedModel
from nnsight_et.core.batch import Example, Pair, collate
from nnsight_et.core.circuit import Head
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.paths import Path as PatchedPath
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.manifest.methods.path_patching import Screen
from nnsight_et.measuring.race import Race
from nnsight_et.planning.cost.methods import Count, Prompts, Sizes, whole_run
from nnsight_et.planning.cost.paths import path_patching

SEED = 20
COUNTED = 16
"""Prompts that share the captures of both runs."""
SIDE_BY_SIDE = 8
"""How many heads TransformerLens patches in a round of what is timed: all would take hours."""
FIRST, KEEP = 4, 6
"""On how many prompts the screen measures every head, and how many heads the stage keeps."""


def collated(examples: Sequence[Example]) -> Pair:
    """The examples as one batch in which nothing is padded."""
    pair = collate(examples, metric="logit_difference")
    assert bool(pair.base.mask.all()), "prompts of one length: nothing is padded"
    return pair


def counted(model: LoadedModel, path: PatchedPath, heads: Sequence[Head], tokens: int) -> dict[str, float]:
    """What one head and prompt of so many tokens takes at the last one, in floating-point operations, in billions.

    Of the engine, and of two runs with hooks: the first ends with the last receiver's layer, the second has logits of
    every token, as in TransformerLens. By the formulas of plans, which tests hold to what the engine runs.
    """
    shape, prompts = model.shape, Prompts(COUNTED, tokens, {path.at: tokens - 1})
    mine = path_patching(Sizes(shape, Chunks()), prompts, path, heads)
    first = whole_run(prompts, max(one.layer for one in path.receivers) + 1)
    two = first + whole_run(prompts, shape.n_layers) + Count(answers=COUNTED * tokens)
    found = {"engine": mine.flops(shape) / len(heads), "two_runs": two.flops(shape)}
    one = {name: value / COUNTED / 1e9 for name, value in found.items()}
    return {"tokens": tokens} | one | {"ratio": one["two_runs"] / one["engine"]}


def timed(
    model: LoadedModel, quantity: PatchedPath, examples: Sequence[Example], batch: int, lens: Any, rounds: int
) -> dict[str, Any]:
    """Path patching into queries at last, in plain forward passes of the same batch, here and in TransformerLens.

    Seconds are the processor's, medians over rounds in which everything runs once. TransformerLens patches few of the
    heads, side by side, and its captures are not counted; ours are.
    """
    from benchmarks.transformer_lens import stage_of_captured

    heads = [Head(*one) for one in quantity.reaching(model.shape.n_layers, model.shape.n_heads)]
    some, pair = heads[:: -(-len(heads) // SIDE_BY_SIDE)], collated(examples[:batch])
    captured = [[cache[f"blocks.{layer}.attn.hook_z"][:batch, -1] for layer in lens.layers] for cache in lens.caches]
    races: list[Race] = []
    kept = replace(model.model, runs={}, reads_words=model.model.has_plain_head)  # as in a run
    stage = StageOfModel(kept, examples, quantity, heads, "logit_difference", Chunks(examples=batch))
    work = {
        "forward": lambda: lens.bridge(pair.base.tokens),
        "engine": lambda: path_probabilities(kept, pair, quantity, heads, "default", Chunks()),
        "screened": lambda: races.append(stage.race(Screen(first=FIRST), KEEP, f"{SEED}/other tools")),
        "TransformerLens": lambda: stage_of_captured(lens.bridge, pair, quantity, some, (captured[1], captured[0])),
    }
    seconds = {name: [] for name in work}
    for _ in range(rounds):
        for name, function in work.items():
            start = time.process_time()
            with torch.no_grad() if name in ("forward", "TransformerLens") else nullcontext():
                function()
            seconds[name].append(time.process_time() - start)
    shares = {name: statistics.median(a / b for a, b in zip(times, seconds["forward"], strict=True))
              for name, times in seconds.items()}  # fmt: skip
    per_head = {
        "engine": shares["engine"] / len(heads),
        "screened": shares["screened"] / len(heads) / (len(examples) / batch),
        "TransformerLens": shares["TransformerLens"] / len(some),
    }
    ratios = {name: per_head["TransformerLens"] / per_head[name] for name in ("engine", "screened")}
    share = races[0].prompts.double().mean().item() / len(examples)
    return {"forwards_per_head": per_head, "ratio": ratios, "rounds": rounds, "prompts": batch, "heads": len(heads),
            "tokens": pair.base.tokens.shape[1],
            "heads_of_TransformerLens": len(some), "prompts_screened": len(examples), "measured_share": share,
            "seconds_of_a_forward": statistics.median(seconds["forward"]), "load": os.getloadavg()[0]}  # fmt: skip


def cost_table(cost: dict[str, Any]) -> str:
    """What each takes, in forwards per head."""
    lines = ["| into queries at last | forwards per head | TransformerLens takes |", "|---|---|---|"]
    for name, value in cost["forwards_per_head"].items():
        lines.append(f"| {name} | {value:.4f} | {cost['ratio'].get(name, 1):.0f} times as much |")
    return "\n".join(lines)
