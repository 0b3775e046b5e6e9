"""What path patching costs, and the probes of discovery, in passes of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnsight_et.core.circuit import Component
from nnsight_et.engine.paths import End, KeptParts, Path, StageReads
from nnsight_et.planning.cost.methods import (
    Count,
    Prompts,
    Sizes,
    captured_run,
    source_run,
    suffix_run,
    total,
    trained_run,
    whole_run,
)


def path_patching(sizes: Sizes, prompts: Prompts, path: Path, senders: Sequence[Component]) -> Count:
    """The path of each sender: the passes that interventions.path_patching makes, senders in ascending order."""
    return edges(sizes, prompts, [(path, senders)])


def edges(sizes: Sizes, prompts: Prompts, paths: Sequence[tuple[Path, Sequence[Component]]]) -> Count:
    """The same of several paths: one base run, and one source run up to the last layer of any sender."""
    top, last = sizes.shape.n_layers, max(senders[-1].layer for _, senders in paths)
    of_mlp = any(path.senders == "mlps" and senders[-1].layer == last for path, senders in paths)
    source = whole_run(prompts, last + 1) if of_mlp else source_run(prompts, last)
    found = [captured_run(prompts, top), source.beside(prompts.cached_tokens(top))]
    return total([*found, *(_path_passes(sizes, prompts, path, senders) for path, senders in paths)])


def estimates(sizes: Sizes, prompts: Prompts, path: Path) -> Count:
    """A gradient's estimate of every head's effect along the path: a pass of one token, a suffix pass, and back."""
    if not path.receivers:
        return Count(mlp=prompts.count * sizes.shape.n_layers, answers=2 * prompts.count, passes=2 * prompts.batches)
    layers = sorted({one.layer for one in path.receivers})
    back = trained_run(sizes, prompts, prompts.live([path.at]), layers[0], _copies(sizes, path))
    mlps = prompts.count * (layers[-1] + (path.via == "input"))
    return back + Count(mlp=mlps, passes=2 * prompts.batches)


def kept_runs(sizes: Sizes, prompts: Prompts, stages: Sequence[StageReads], count: int, logits: bool) -> float:
    """What is kept of both runs of `count` prompts for these stages, the base run's logits too if they are read again:
    tokens times layers of keys and values that take as much memory.
    """
    shape, names = sizes.shape, {stage.at for stage in stages}
    queries, keys = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    kept = KeptParts.of(stages, shape.n_layers, {at: (prompts.places[at], prompts.live([at])) for at in names})
    numbers = 2 * keys * sum(kept.cached) + shape.d_model * sum(kept.entering.values())
    numbers += (2 * shape.d_model + queries) * sum(kept.tokens.values())
    numbers += sum(
        layers * (queries if kind == "heads" else shape.d_model) for (_, kind), layers in kept.donated.items()
    )
    return min(count, sizes.chunks.kept) * (numbers + logits * shape.vocabulary) / (2 * keys)


def _copies(sizes: Sizes, path: Path) -> int:
    """Two where receivers see other keys or values than heads that share them: these need all of it twice."""
    shared = path.via in ("key", "value") and sizes.shape.n_kv_heads < sizes.shape.n_heads
    return 2 if path.kv_heads == "expanded" and shared else 1


def _path_passes(sizes: Sizes, prompts: Prompts, path: Path, senders: Sequence[Component]) -> Count:
    """What each sender of a path takes once both runs are there."""
    layers, live, shape = sorted({one.layer for one in senders}), prompts.live([path.at]), sizes.shape
    starts = path.starts(layers, shape.parallel)
    last = max((one.layer for one in path.receivers), default=shape.n_layers - 1)  # whose attention is frozen last
    mlps = last + 1 if path.via in (None, "input") else last  # the end of a head's input comes before its layer's MLP
    copies, found = _copies(sizes, path), list[Count]()
    for some in path.passes(senders, starts, sizes.chunks.variants(prompts.in_batch, live)):
        first, variants = some[0].layer, prompts.count * len(some)
        answers = 0 if starts else variants
        found.append(Count(mlp=variants * (mlps - first), answers=answers, passes=prompts.batches))
        if starts:
            found.append(suffix_run(sizes, prompts, live, starts[first], len(some), copies))
    return total(found)


@dataclass(frozen=True)
class ProbePass:
    """Probes of one suffix pass, from layer `start` on; `last` is the layer of their last receiver.

    sets: the lowest layer of donors -> how many of the variants they write the inputs of.
    """

    at: str
    via: End
    start: int
    last: int
    variants: int
    sets: Mapping[int, int]


def probing(sizes: Sizes, prompts: Prompts, passes: Sequence[ProbePass]) -> Count:
    """Probes: one capture and one source run for all, and the passes of interventions.probes."""
    top = sizes.shape.n_layers
    source = whole_run(prompts, max(one.last for one in passes) + 1)
    found = [captured_run(prompts, top), source.beside(prompts.cached_tokens(top))]
    for one in passes:
        for lowest, variants in one.sets.items():
            mlps = one.last + (one.via == "input") - lowest
            found.append(Count(mlp=prompts.count * variants * mlps, passes=prompts.batches))
        found.append(suffix_run(sizes, prompts, prompts.live([one.at]), one.start, one.variants))
    return total(found)
