"""Base and source runs of prompts that several calls ask for: run together once, kept with the model, taken by row.

Which prompts run together does not depend on which a call asks for, so that a number does not depend on what was
measured before it: a race that is continued gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.named_metrics import METRICS
from nnsight_et.engine.capture import Capture, TokenCapture, capture_run, component_outputs, suffix_of, visible
from nnsight_et.engine.paths import KeptParts, Kind, Path, StageReads
from nnsight_et.engine.readout import Readout, ReadoutSpec, readout
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class SharedRuns:
    """Prompts, padded on the left, that run together, and which of them, `rows` [batch], a call asks for.

    stages: what the call's own stage reads, then those to come: what none of them reads is forgotten.
    """

    pair: Pair
    rows: Tensor
    stages: tuple[StageReads, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells these runs from others of the model: the metric, the tokens, and where the positions stand."""
        runs = [self.pair.base, self.pair.source]
        places = [sorted((name, place.tolist()) for name, place in one.positions.items()) for one in runs]
        return self.pair.metric, str([(one.tokens.tolist(), one.mask.tolist()) for one in runs]), str(places)


@dataclass(frozen=True)
class BothRuns:
    """A base run with all that any path from the shared positions needs, and what donates in the source run."""

    base: Capture
    readout: Readout
    tokens: Mapping[str, TokenCapture]
    donated: Mapping[tuple[str, Kind], Mapping[int, Tensor]]
    stages: tuple[StageReads, ...]

    def serve(self, stage: StageReads) -> bool:
        """Whether they have what the stage reads."""
        return any(stage.within(one) for one in self.stages)

    def of_stages(self, stages: tuple[StageReads, ...], recompute_from: Callable[[int], int]) -> BothRuns:
        """What these stages read of them, and no memory of anything else."""
        run = self.base.run
        ends = [(stage.at, run.positions[stage.at]) for stage in stages]
        spans = {at: (int(place.max()), suffix_of(run, place).shape[1]) for at, place in ends}
        lower = [replace(one, starts=frozenset(map(recompute_from, one.starts))) for one in stages]
        kept = KeptParts.of(lower, len(self.base.cache), spans)
        base = replace(
            self.base,
            entering={layer: _own(self.base.entering[layer][:, -count:]) for layer, count in kept.entering.items()},
            cache=[(_own(keys[:, :, :width]), _own(values[:, :, :width]))
                   for width, (keys, values) in zip(kept.cached, self.base.cache, strict=True)],
        )  # fmt: skip
        tokens = {at: _below(self.tokens[at], layers) for at, layers in kept.tokens.items()}
        donated = {key: {layer: one for layer, one in self.donated[key].items() if layer < layers}
                   for key, layers in kept.donated.items()}  # fmt: skip
        return BothRuns(base, self.readout, tokens, donated, stages)

    def of_rows(
        self, rows: Tensor, path: Path, starts: Iterable[int], donors: Iterable[int]
    ) -> tuple[Capture, dict[int, Tensor], Readout]:
        """The base run of some prompts for passes of a path from any layer of `starts`; what `donors` donate; and what
        is read of the base run.

        Columns that are padding in all of them are left out.
        """
        starts, base = sorted(starts), self.base
        first = int(base.run.mask[rows].any(0).nonzero()[0])
        run = _without_columns(base.run.rows(rows), first)
        live = suffix_of(run, run.positions[path.at])
        every = first == 0 and rows.tolist() == list(range(len(base.run.tokens)))
        low = starts[0] if starts else len(base.cache)  # below it nobody reads keys and values
        cache = [
            (keys, values) if every or layer < low else (keys[rows, :, first:], values[rows, :, first:])
            for layer, (keys, values) in enumerate(base.cache)
        ]
        one = self.tokens[path.at]
        entered, z, attention = ([values[rows] for values in some] for some in (one.entering, one.z, one.attention))
        capture = replace(
            base,
            run=run,
            live=live,
            entering={layer: base.entering[layer][rows, -live.shape[1] :] for layer in starts},
            cache=cache,
            visible=visible(run, live),
            logits=base.logits[rows] if len(base.logits) else base.logits,
            tokens=(TokenCapture(one.tokens[rows], one.position_ids[rows], entered, z, attention),),
        )
        given = self.donated[path.at, path.senders]
        return capture, {layer: given[layer][rows] for layer in donors}, self.readout.of_examples(rows)


def both_runs(
    model: Model, pair: Pair, path: Path, *, starts: Iterable[int], donors: Iterable[int]
) -> tuple[Capture, Mapping[int, Tensor], Readout]:
    """The base run, kept for passes of a path from any layer of `starts`; what `donors`, layers, donate; and what is
    read of the base run [batch].

    Where runs are kept with the model, and these prompts share theirs, those of all of them are made at once. The
    model keeps them.
    """
    shared: SharedRuns | None = pair.shared
    if shared is None or model.runs is None or model.recurrent:
        place = pair.base.positions[path.at]
        capture = capture_run(model, pair.base, suffix_of(pair.base, place), sorted(starts), [place])
        end = path.at, path.senders
        donated = component_outputs(model, pair.source, {end: donors})[end]
        return capture, donated, readout(capture.logits, ReadoutSpec.of(pair, capture.logits))
    runs: dict[Any, BothRuns] = model.runs
    for key, one in runs.items():
        if one.stages != shared.stages and all(map(one.serve, shared.stages)):
            runs[key] = one.of_stages(shared.stages, model.recompute_from)
    if shared.key not in runs or not runs[shared.key].serve(shared.stages[0]):
        runs[shared.key] = _run_both(model, shared)
    whole = runs[shared.key]
    return whole.of_rows(shared.rows.to(model.device), path, {*map(model.recompute_from, starts)}, donors)


def _run_both(model: Model, shared: SharedRuns) -> BothRuns:
    pair, names, layers = shared.pair.to(model.device), sorted({one.at for one in shared.stages}), range(model.n_layers)
    first = torch.stack([pair.base.positions[name] for name in names]).amin(0)
    places = [pair.base.positions[name] for name in names]
    capture = capture_run(model, pair.base, suffix_of(pair.base, first), layers, places)
    donated = component_outputs(model, pair.source, {(one.at, one.senders): layers for one in shared.stages})
    tokens = dict(zip(names, capture.tokens, strict=True))
    read = readout(capture.logits, ReadoutSpec.of(pair, capture.logits))
    again = METRICS[pair.metric].compares
    base = replace(capture, tokens=(), logits=capture.logits if again else capture.logits.new_zeros(0))
    runs = BothRuns(base, read, tokens, donated, shared.stages)
    return runs.of_stages(shared.stages, model.recompute_from)


def _below(token: TokenCapture, layers: int) -> TokenCapture:
    """What it has of the first so many layers."""
    entering, z, attention = (
        [_own(one) for one in some[:layers]] for some in (token.entering, token.z, token.attention)
    )
    return replace(token, entering=entering, z=z, attention=attention)


def _own(part: Tensor) -> Tensor:
    """The same in memory that has nothing else."""
    return part.clone() if part.untyped_storage().nbytes() > part.nbytes else part


def _without_columns(run: PromptBatch, first: int) -> PromptBatch:
    """The same prompts without the columns before `first`."""
    positions = {name: place - first for name, place in run.positions.items()}
    return PromptBatch(run.tokens[:, first:], run.mask[:, first:], positions)
