"""Probes of discovery: inputs of heads, or MLPs, taken from the source run as a whole, or as far as heads write them.

Each is one variant, however many senders it stands for: docs/discovery.md says what it bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nnsight
import torch
from torch import Tensor

from nnsight_et.core.batch import Pair, PromptBatch
from nnsight_et.core.circuit import Head
from nnsight_et.engine import one_token, reference
from nnsight_et.engine.budget import Chunks
from nnsight_et.engine.capture import TokenCapture, capture_run, suffix_of
from nnsight_et.engine.one_token import Receivers, Senders
from nnsight_et.engine.paths import End, Path
from nnsight_et.engine.readout import Readout, ReadoutSpec, joined_readouts, readout, stacked_readouts
from nnsight_et.engine.suffix import SITES, Edit, Site, suffix
from nnsight_et.interventions.path_patching import numbers_of
from nnsight_et.models.finite import check_numbers
from nnsight_et.models.model import Model


@dataclass(frozen=True)
class Probe:
    """Inputs at the end of `path`, whose senders do not matter, that are the source's.

    donors: the heads, of which the lowest reach a receiver, that write at the position what they write in the source
    run, all together, attention frozen as on any path; None: the whole input is the source run's.
    """

    path: Path
    donors: tuple[Head, ...] | None = None

    @property
    def lowest(self) -> int | None:
        """The lowest layer that donates."""
        return None if self.donors is None else min(head.layer for head in self.donors)

    def start(self, parallel: bool) -> int:
        """The first layer in which it changes an input: the lowest receiver's that its donors reach."""
        if self.lowest is None:
            return min(receiver.layer for receiver in self.path.receivers)
        return self.path.starts([self.lowest], parallel)[self.lowest]


class SuffixKey(NamedTuple):
    """What probes of one suffix pass share: where they replace inputs, and from which layer on."""

    at: str
    via: End
    start: int


def suffixes_of(probes: Sequence[Probe], parallel: bool) -> dict[SuffixKey, list[int]]:
    """The probes' numbers by the suffix pass that they share."""
    shared: dict[SuffixKey, list[int]] = {}
    for index, probe in enumerate(probes):
        assert probe.path.via is not None
        key = SuffixKey(probe.path.at, probe.path.via, probe.start(parallel))
        shared.setdefault(key, []).append(index)
    return shared


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
    run, shared = pair.base, suffixes_of(probes, model.parallel)
    receivers = {key: _receivers(model, [probes[i] for i in some], key) for key, some in shared.items()}
    names = sorted({key.at for key in shared}, key=lambda at: (int(run.positions[at].min()), at))
    live = {name: suffix_of(run, run.positions[name]) for name in names}
    starts = {key.start for key in shared}
    whole = capture_run(model, run, live[names[0]], starts, [run.positions[name] for name in names])
    tokens = dict(zip(names, whole.tokens, strict=True))
    donated, given = _source_values(model, pair.source, receivers, names)
    asked, parts = ReadoutSpec.of(pair, whole.logits), dict[int, Readout]()
    for key, some in shared.items():
        here, capture, edits = [probes[i] for i in some], whole.with_live(live[key.at]), list[Edit]()
        written = _written(model, tokens[key.at], here, donated[key.at], receivers[key])
        slot = capture.live_index(run.positions[key.at])
        for layer, heads in receivers[key].heads.items():
            values = torch.stack([(one or given[key])[layer] for one in written])
            kept = torch.tensor([[not _reads(model, one, layer, head) for head in heads.tolist()] for one in here])
            edits.append(Edit(layer, _site(key.via), slot, heads, values, kept.to(model.device)))
        found = suffix(model, capture, key.start, edits, asked, chunks)
        parts |= dict(zip(some, found.split(), strict=True))
    return numbers_of(readout(whole.logits, asked), joined_readouts([parts[index] for index in range(len(probes))]))


def _written(
    model: Model, token: TokenCapture, probes: Sequence[Probe], donated: Mapping[int, Tensor], ends: Receivers
) -> list[dict[int, Tensor] | None]:
    """Of each probe: receiver layer -> its inputs [batch, k, d_head], as far as donors write them; None without donors.

    Probes whose lowest donors are in one layer share a pass, which begins there.
    """
    written: list[dict[int, Tensor] | None] = [None] * len(probes)
    for lowest in {probe.lowest for probe in probes} - {None}:
        sets = {number: probe.donors for number, probe in enumerate(probes) if probe.donors and probe.lowest == lowest}
        senders = Senders.together(model, list(sets.values()), donated)
        found = one_token.to_receivers(model, token, senders, ends)
        for index, number in enumerate(sets):
            written[number] = {layer: values[index] for layer, values in found.items()}
    return written


def _site(via: End) -> Site:
    return "mlp" if via == "input" else via


def _receivers(model: Model, probes: Sequence[Probe], key: SuffixKey) -> Receivers:
    """The receivers of any of the probes of a suffix pass, as far as it goes down."""
    every = {receiver for probe in probes for receiver in probe.path.receivers}
    return Receivers.of(model, sorted(every), key.via).above(key.start)


def _reads(model: Model, probe: Probe, layer: int, head: int) -> bool:
    """Whether a receiver of the probe has the layer's input `head`, in the space of its via."""
    via = probe.path.via
    assert via is not None
    return any(
        one.layer == layer and (0 if via == "input" else model.receiver(one.index, via)) == head
        for one in probe.path.receivers
    )


def _source_values(
    model: Model, run: PromptBatch, receivers: Mapping[SuffixKey, Receivers], names: Sequence[str]
) -> tuple[dict[str, dict[int, Tensor]], dict[SuffixKey, dict[int, Tensor]]]:
    """Of the source run: position -> layer -> z [batch, head, d_head]; pass -> layer -> inputs [batch, k, d_head].

    Of MLPs what they add [batch, 1, d].
    """
    row, last = torch.arange(len(run.tokens), device=model.device), max(max(one.heads) for one in receivers.values())
    z: dict[str, dict[int, Tensor]] = {name: {} for name in names}
    inputs: dict[SuffixKey, dict[int, Tensor]] = {key: {} for key in receivers}
    with model.trace(run.tokens, run.position_ids, run.mask):
        for layer in range(last + 1):
            for via in SITES:
                for key, ends in receivers.items():
                    if via != _site(key.via) or layer not in ends.heads:
                        continue
                    if via == "mlp":
                        inputs[key][layer] = model.mlp(layer, len(row))[row, run.positions[key.at]][:, None]
                    elif via != "z":
                        projected = model.projection(layer, via)[row, run.positions[key.at]]
                        inputs[key][layer] = projected[:, ends.heads[layer]]
                if via == "z":
                    for name in names:
                        z[name][layer] = model.z(layer)[row, run.positions[name]]
        model.stop_after(last)
    return z, inputs


def _reference_effects(model: Model, pair: Pair, probes: Sequence[Probe], chunks: Chunks) -> dict[str, Tensor]:
    base, patched = reference.probe_effects(model, pair, [(probe.path, probe.donors) for probe in probes])
    return numbers_of(base, stacked_readouts(patched))
