"""Probes of discovery: inputs of heads, or MLPs, taken from the source run as a whole, or as far as heads write them.

Each is one variant, however many senders it stands for: docs/discovery.md says what it bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Head
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import capture_run, suffix_of
from nnsight_et.engine.one_token import Receivers, Senders
from nnsight_et.engine.paths import End, Path
from nnsight_et.engine.readout import Readout, ReadoutSpec, joined_readouts, readout, stacked_readouts
from nnsight_et.engine.suffix import SITES, Edit, Site, suffix
from nnsight_et.interventions.path_patching import numbers_of
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model

Place = tuple[str, End]
"""A position, and which input of receivers is replaced there."""


@dataclass(frozen=True)
class Probe:
    """Inputs at the end of `path`, whose senders do not matter, that are the source's.

    donors: the heads that write at the position what they write in the source run, all together, attention frozen as on
    any path; None: the whole input is the source run's.
    """

    path: Path
    donors: tuple[Head, ...] | None = None

    @property
    def place(self) -> Place:
        """Where its receivers' input is replaced."""
        assert self.path.via is not None
        return self.path.at, self.path.via


def probe_probabilities(
    model: Model, pair: Pair, probes: Sequence[Probe], engine: str, chunks: Chunks
) -> dict[str, Tensor]:
    """{"base": [batch], "patched": [probe, batch]}: the answer's probability without and with each probe.

    If the pair's metric is not the paper's, its values too, "base_value" and "patched_value". No logits leave.
    """
    for probe in probes:
        model.check_has(probe.path.via, [one.layer for one in probe.path.receivers])
    with model.session():
        effects = _reference_effects if engine == "reference" else _effects
        outcome = nnsight.save(effects(model, pair.by_row(), probes, chunks))
    return check_numbers(model, outcome, [pair])


def _effects(model: Model, pair: Pair, probes: Sequence[Probe], chunks: Chunks) -> dict[str, Tensor]:
    run, places = pair.base, _by_place(probes)
    receivers = {place: _all_receivers(model, [probes[i] for i in some]) for place, some in places.items()}
    names = sorted({at for at, _ in places}, key=lambda at: (int(run.positions[at].min()), at))
    live = {name: suffix_of(run, run.positions[name]) for name in names}
    starts = [min(one.heads) for one in receivers.values()]
    whole = capture_run(model, run, live[names[0]], starts, [run.positions[name] for name in names])
    tokens = dict(zip(names, whole.tokens, strict=True))
    donated, given = _source_values(model, pair.source, receivers, names)
    asked, parts = ReadoutSpec.of(pair, whole.logits), dict[int, Readout]()
    for place, some in places.items():
        at, ends = place[0], receivers[place]
        here = [probes[i] for i in some]
        sets = [probe.donors for probe in here if probe.donors is not None]
        written: dict[int, Tensor] = {}
        if sets:
            senders = Senders.together(model, sets, donated[at])
            written = one_token.to_receivers(model, tokens[at], senders, ends)
        capture, edits = whole.with_live(live[at]), []
        for layer, heads in ends.heads.items():
            from_heads = iter(written.get(layer, ()))
            values = torch.stack([given[place][layer] if one.donors is None else next(from_heads) for one in here])
            kept = torch.tensor([[not _reads(model, one, layer, head) for head in heads.tolist()] for one in here])
            slot = capture.live_index(run.positions[at])
            edits.append(Edit(layer, _site(ends.via), slot, heads, values, kept.to(model.device)))
        found = suffix(model, capture, min(ends.heads), edits, asked, chunks)
        parts |= dict(zip(some, found.split(), strict=True))
    return numbers_of(readout(whole.logits, asked), joined_readouts([parts[index] for index in range(len(probes))]))


def _by_place(probes: Sequence[Probe]) -> dict[Place, list[int]]:
    """The probes' numbers by where they replace inputs."""
    places: dict[Place, list[int]] = {}
    for index, probe in enumerate(probes):
        places.setdefault(probe.place, []).append(index)
    return places


def _site(via: End) -> Site:
    return "mlp" if via == "input" else via


def _all_receivers(model: Model, probes: Sequence[Probe]) -> Receivers:
    """The receivers of any of the probes of a place."""
    every = {receiver for probe in probes for receiver in probe.path.receivers}
    return Receivers.of(model, sorted(every), probes[0].place[1])


def _reads(model: Model, probe: Probe, layer: int, head: int) -> bool:
    """Whether a receiver of the probe has the layer's input `head`, in the space of its via."""
    via = probe.place[1]
    return any(
        one.layer == layer and (0 if via == "input" else model.receiver(one.index, via)) == head
        for one in probe.path.receivers
    )


def _source_values(
    model: Model, run: PromptBatch, receivers: Mapping[Place, Receivers], names: Sequence[str]
) -> tuple[dict[str, dict[int, Tensor]], dict[Place, dict[int, Tensor]]]:
    """Of the source run: position -> layer -> z [batch, head, d_head]; place -> layer -> inputs [batch, k, d_head].

    Of MLPs what they add [batch, 1, d].
    """
    row, last = torch.arange(len(run.tokens), device=model.device), max(max(one.heads) for one in receivers.values())
    z: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    inputs: dict[Place, dict[int, Tensor]] = {place: {} for place in receivers}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(last + 1):
            for via in SITES:
                for place, ends in receivers.items():
                    if via != _site(place[1]) or layer not in ends.heads:
                        continue
                    if via == "mlp":
                        inputs[place][layer] = model.mlp(layer, len(row))[row, run.positions[place[0]]][:, None]
                    elif via != "z":
                        projected = model.projection(layer, via)[row, run.positions[place[0]]]
                        inputs[place][layer] = projected[:, ends.heads[layer]]
                if via == "z":
                    for name in names:
                        z[name][layer] = model.z(layer)[row, run.positions[name]]
        model.stop_after(last)
    return z, inputs


def _reference_effects(model: Model, pair: Pair, probes: Sequence[Probe], chunks: Chunks) -> dict[str, Tensor]:
    base, patched = reference.probe_effects(model, pair, [(probe.path, probe.donors) for probe in probes])
    return numbers_of(base, stacked_readouts(patched))
