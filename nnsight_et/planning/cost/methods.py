"""What each method's measurements cost on one model: passes of the engine, as nnsight_et.interventions makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.manifest import DCM
from nnsight_et.planning.cost.passes import (
    Count,
    Prompts,
    Sizes,
    captured_run,
    suffix_run,
    total,
    trained_run,
    whole_run,
)


@dataclass(frozen=True)
class Rows:
    """Prompts of one method by where their positions stand, and the sizes they are run with."""

    sizes: Sizes
    prompts: tuple[Prompts, ...]
    """Of one count each, however many; `of` says how many there are of each."""

    def of(self, count: int, names: Sequence[str] = ()) -> list[Prompts]:
        """`count` prompts in batches as the jobs make them.

        Prompts share a batch if as many tokens follow the first of the positions; without positions all may.
        """
        share = {id(one): one.count / sum(other.count for other in self.prompts) for one in self.prompts}
        groups: dict[int, list[Prompts]] = {}
        for one in self.prompts:
            groups.setdefault(one.live(names) if names else 0, []).append(one)
        found = []
        for group in groups.values():
            weight = sum(share[id(one)] for one in group)
            batches = max(1, ceil(count * weight / self.sizes.chunks.examples - 1e-9))
            for one in group:
                part = share[id(one)]
                found.append(replace(one, count=count * part, batches=batches * part / weight))
        return found

    @property
    def top(self) -> int:
        """How many layers the model has."""
        return self.sizes.shape.n_layers


def plain(rows: Rows, count: int) -> Count:
    """Unpatched runs that end in their answers."""
    return total(whole_run(one, rows.top, answers=True) for one in rows.of(count))


def whole(rows: Rows, count: int, layers: int) -> Count:
    """Runs of whole prompts whose answers nobody reads, through so many layers."""
    return total(whole_run(one, layers) for one in rows.of(count))


def circuit_work(rows: Rows, count: int, circuits: int, names: Sequence[str]) -> Count:
    """Circuits alone: only the tokens at the vital positions differ from circuit to circuit (§4.2)."""
    if not circuits:
        return Count()
    prompts = rows.of(count)
    found = [captured_run(one, rows.top, background=True) for one in prompts]
    found += [suffix_run(rows.sizes, one, len(names), 0, circuits) for one in prompts]
    return total(found)


def without(rows: Rows, count: int, sets: int, names: Sequence[str]) -> Count:
    """The model without sets of heads (App. C)."""
    prompts = rows.of(count, names)
    found = [captured_run(one, rows.top, background=True) for one in prompts]
    found += [suffix_run(rows.sizes, one, one.live(names), 0, sets) for one in prompts]
    return total(found)


def recomputing_work(sizes: Sizes, prompts: Prompts, sets: Sequence[Circuit]) -> Count:
    """Sets of heads patched into captured runs: those alike in where recomputing begins go together."""
    alike: dict[int, list[Circuit]] = {}
    for heads in sets:
        if heads.size:
            alike.setdefault(prompts.live(positions_with_heads(heads)), []).append(heads)
    found = []
    for live, some in alike.items():
        found.append(suffix_run(sizes, prompts, live, min(layers(some)), len(some)))
    return total(found)


def patching_work(rows: Rows, count: int, sources: Sequence[Sequence[Circuit]]) -> Count:
    """One base run, and per source its run up to the last layer that donates, and every set of its heads patched."""
    names = sorted({name for sets in sources for heads in sets for name in heads.positions})
    found = []
    for one in rows.of(count, names):
        found.append(captured_run(one, rows.top))
        for sets in sources:
            if any(heads.size for heads in sets):
                source = whole_run(one, max(layers(sets)) + 1).beside(one.cached_tokens(rows.top))
                found += [source, recomputing_work(rows.sizes, one, sets)]
    return total(found)


def recipient_work(rows: Rows, count: int, sets: Sequence[Circuit]) -> Count:
    """A recipient's runs with a donor's outputs: as patching, but the donor has run elsewhere (§6)."""
    names = sorted({name for heads in sets for name in heads.positions})
    found = []
    for one in rows.of(count, names):
        found += [captured_run(one, rows.top), recomputing_work(rows.sizes, one, sets)]
    return total(found)


def masks(rows: Rows, spec: DCM, groups: Sequence[HeadGroup]) -> Count:
    """The training and validation of all groups' masks for one desideratum (App. H).

    Of the validated masks half are taken to differ. Captured prompts stay in memory from epoch to epoch if they fit.
    """
    steps = ceil(spec.training_examples / spec.batch)
    held = min(spec.training_examples, rows.sizes.chunks.kept)
    different = max(1, round(spec.epochs * steps / spec.validate_every / 2))
    training, validation = [], []
    for one in _in_steps(rows, spec.training_examples, spec.batch):
        training.append(_preparing_work(one, rows.top, groups) * (1 if held == spec.training_examples else spec.epochs))
        for start, live in _begins(one, groups):
            training.append(trained_run(rows.sizes, one, live, start) * spec.epochs)
    for one in _in_steps(rows, spec.validation_examples, spec.batch):
        validation.append(_preparing_work(one, rows.top, groups))
        validation += [suffix_run(rows.sizes, one, live, start, different) for start, live in _begins(one, groups)]
    each = rows.prompts[0].tokens * rows.top  # what a captured prompt keeps; those of a step are its own
    return total(training).beside(max(held - spec.batch, 0) * each) + total(validation).beside(held * each)


def _begins(prompts: Prompts, groups: Sequence[HeadGroup]) -> list[tuple[int, int]]:
    """Of each group where recomputing begins: its lowest layer, and how many tokens there are from its position on."""
    return [(min(head.layer for head in group.heads), prompts.live([group.at])) for group in groups]


def _in_steps(rows: Rows, count: int, batch: int) -> list[Prompts]:
    """Training batches, which mix prompts: each recomputes from the first of its prompts' positions on."""
    steps, every = ceil(count / batch), rows.prompts
    first = {name: min(one.places[name] for one in every) for name in every[0].places}
    return [Prompts(count, every[0].tokens, first, steps)]


def _preparing_work(prompts: Prompts, top: int, groups: Sequence[HeadGroup]) -> Count:
    last = max(head.layer for group in groups for head in group.heads)
    return captured_run(prompts, top) + whole_run(prompts, last + 1)


def knockout(rows: Rows, count: int, blind: str) -> Count:
    """One edge blocked from every layer up."""
    found = []
    for one in rows.of(count, [blind]):
        found.append(captured_run(one, rows.top))
        found += [suffix_run(rows.sizes, one, one.live([blind]), first, 1) for first in range(rows.top)]
    return total(found)


def every_head(rows: Rows, count: int, at: str) -> Count:
    """Each head at a position patched in turn, and all of them estimated from one gradient (a way back per example)."""
    found, heads = [], rows.top * rows.sizes.shape.n_heads
    for one in rows.of(count, [at]):
        found += [captured_run(one, rows.top)] * 2 + [whole_run(one, rows.top)]
        found.append(suffix_run(rows.sizes, one, one.live([at]), 0, heads).beside(one.cached_tokens(rows.top)))
        found.append(trained_run(rows.sizes, one, one.live([at]), 0) * ((1 + one.in_batch) / 2))
    return total(found)


def recipient_input_work(rows: Rows, count: int, group: HeadGroup, ways: int) -> Count:
    """A donor's queries, keys and values of a group in a recipient, in so many ways (§6)."""
    found, start = [], min(head.layer for head in group.heads)
    for one in rows.of(count, [group.at]):
        found += [captured_run(one, rows.top), whole_run(one, rows.top)]
        found.append(suffix_run(rows.sizes, one, one.live([group.at]), start, 1) * ways)
    return total(found)


def donor_input_work(rows: Rows, count: int, group: HeadGroup) -> Count:
    """What the donor of those runs."""
    last = max(head.layer for head in group.heads)
    return total(whole_run(one, last + 1) for one in rows.of(count, [group.at]))


def positions_with_heads(heads: Circuit) -> list[str]:
    """The positions of groups that have heads."""
    return [group.at for group in heads.groups if group.heads]


def layers(sets: Sequence[Circuit]) -> list[int]:
    """The layers of all their heads."""
    return [head.layer for heads in sets for group in heads.groups for head in group.heads]
