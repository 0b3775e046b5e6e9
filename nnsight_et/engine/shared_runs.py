"""Base and source runs of prompts that several calls ask for: run together once, kept with the model, taken by row.

Which prompts run together does not depend on which a call asks for, so that a number does not depend on what was
measured before it: a race that is continued gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.engine.capture import Capture, TokenCapture, capture_run, head_outputs, mlp_outputs, suffix_of, visible
from nnsight_et.engine.paths import Kind, Path
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class SharedRuns:
    """Prompts, padded on the left, that run together, and which of them, `rows` [batch], a call asks for.

    donors: at which positions what may donate.
    """

    pair: Pair
    rows: Tensor
    donors: tuple[tuple[str, Kind], ...]

    @property
    def names(self) -> list[str]:
        """The positions, each once."""
        return sorted({name for name, _ in self.donors})

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells these runs from others of the model: the tokens, and where the positions stand."""
        runs = [self.pair.base, self.pair.source]
        places = [[one.positions[name].tolist() for name in ("last", *self.names)] for one in runs]
        return self.donors, str([(one.tokens.tolist(), one.mask.tolist()) for one in runs]), str(places)


@dataclass(frozen=True)
class BothRuns:
    """A base run with all that any path from the shared positions needs, and what donates in the source run."""

    base: Capture
    tokens: Mapping[str, TokenCapture]
    donated: Mapping[tuple[str, Kind], Mapping[int, Tensor]]

    def of_rows(
        self, rows: Tensor, path: Path, starts: Iterable[int], donors: Iterable[int]
    ) -> tuple[Capture, dict[int, Tensor]]:
        """The base run of some prompts for passes of a path from any layer of `starts`; and what `donors` donate.

        Columns that are padding in all of them are left out.
        """
        starts, base = sorted(starts), self.base
        first = int(base.run.mask[rows].any(0).nonzero()[0])
        run = _without_columns(base.run.rows(rows), first)
        live = suffix_of(run, run.positions[path.at])
        behind = first + int(live[0, 0] - base.live[0, 0])
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
            entering={layer: base.entering[layer][rows, behind:] for layer in starts},
            cache=cache,
            visible=visible(run, live),
            logits=base.logits[rows],
            tokens=(TokenCapture(one.tokens[rows], one.position_ids[rows], entered, z, attention),),
        )
        given = self.donated[path.at, path.senders]
        return capture, {layer: given[layer][rows] for layer in donors}


def both_runs(
    model: Model, pair: Pair, path: Path, *, starts: Iterable[int], donors: Iterable[int]
) -> tuple[Capture, Mapping[int, Tensor]]:
    """The base run, kept for passes of a path from any layer of `starts`, and what `donors`, layers, donate.

    Where runs are kept with the model, and these prompts share theirs, those of all of them are made at once. The
    model keeps them.
    """
    shared: SharedRuns | None = pair.shared
    if shared is None or model.runs is None or model.recurrent:
        place = pair.base.positions[path.at]
        capture = capture_run(model, pair.base, suffix_of(pair.base, place), sorted(starts), [place])
        if path.senders == "mlps":
            return capture, mlp_outputs(model, pair.source, path.at, donors)
        return capture, head_outputs(model, pair.source, {path.at: donors})[path.at]
    if shared.key not in model.runs:
        model.runs[shared.key] = _run_both(model, shared)
    whole: BothRuns = model.runs[shared.key]
    return whole.of_rows(shared.rows.to(model.device), path, {*map(model.recompute_from, starts)}, donors)


def _run_both(model: Model, shared: SharedRuns) -> BothRuns:
    pair, names, layers = shared.pair.to(model.device), shared.names, range(model.n_layers)
    first = torch.stack([pair.base.positions[name] for name in names]).amin(0)
    places = [pair.base.positions[name] for name in names]
    capture = capture_run(model, pair.base, suffix_of(pair.base, first), layers, places)
    wanted = {name: layers for name, kind in shared.donors if kind == "heads"}
    donated: dict[tuple[str, Kind], Mapping[int, Tensor]] = {
        (name, "heads"): given for name, given in head_outputs(model, pair.source, wanted).items()
    }
    for name, kind in shared.donors:
        if kind == "mlps":
            donated[name, kind] = mlp_outputs(model, pair.source, name, layers)
    return BothRuns(replace(capture, tokens=()), dict(zip(names, capture.tokens, strict=True)), donated)


def _without_columns(run: PromptBatch, first: int) -> PromptBatch:
    """The same prompts without the columns before `first`."""
    positions = {name: place - first for name, place in run.positions.items()}
    return PromptBatch(run.tokens[:, first:], run.mask[:, first:], positions)
