"""What a pass of the engine costs, in tokens times layers; and what methods' measurements on one model cost in passes.

Tests hold these formulas to what the engine runs, and nnsight_et.interventions asks of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil

from nnsight_et.core.circuit import Circuit, HeadGroup
from nnsight_et.engine.budget import Chunks
from nnsight_et.manifest import DCM
from nnsight_et.models.catalog import Shape


@dataclass(frozen=True)
class Prompts:
    """So many prompts of one length whose named positions stand at one place, in so many batches.

    In an estimate both are expectations, and need not be whole numbers.
    """

    count: float
    tokens: int
    places: Mapping[str, int]
    batches: float = 1.0

    def live(self, names: Iterable[str]) -> int:
        """How many tokens there are from the first of the named positions on."""
        return self.tokens - min(self.places[name] for name in names)

    @property
    def in_batch(self) -> int:
        """How many prompts a batch has."""
        return max(1, round(self.count / self.batches))

    def cached_tokens(self, layers: int) -> float:
        """Tokens times layers of the keys and values of a batch."""
        return self.in_batch * self.tokens * layers


@dataclass(frozen=True)
class PeakMemory:
    """What is in memory at the fullest moment of a pass.

    kept: tokens times layers of keys and values. passing: tokens in one layer. outputs: tokens times layers of head
    outputs. mask: numbers in an attention mask. saved: tokens times layers kept for the way back. answers: tokens whose
    logits are there.
    """

    kept: float = 0.0
    passing: float = 0.0
    outputs: float = 0.0
    mask: float = 0.0
    saved: float = 0.0
    answers: float = 0.0

    def bytes(self, shape: Shape, itemsize: int) -> float:
        """The same in bytes, in numbers of `itemsize` bytes; without the weights."""
        queries, keys = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
        attention = 3 * shape.d_model + 2 * queries + 5 * keys + 2 * shape.d_head
        widest = max(attention, 4 * shape.d_model + 3 * shape.d_mlp)
        saved = 4 * shape.d_model + 2 * queries + 3 * shape.d_mlp
        numbers = self.kept * 2 * keys + self.passing * widest + self.outputs * queries + self.saved * saved + self.mask
        return itemsize * numbers + 12 * self.answers * shape.vocabulary


@dataclass(frozen=True)
class Count:
    """Work: tokens times layers by the kind of pass, and what is not in layers. Everything adds up.

    whole: tokens of whole prompts. again: recomputed ones. trained: recomputed ones whose gradient is taken. mlp:
    tokens whose attention is frozen, so that they go through norms and MLPs alone. seen: what the tokens of the first
    three attend to. answers: tokens through the vocabulary. passes: how often the model is called. texts: prompts that
    are made. holds: what is in memory in the different passes, which does not add up.
    """

    whole: float = 0.0
    again: float = 0.0
    trained: float = 0.0
    mlp: float = 0.0
    seen: float = 0.0
    answers: float = 0.0
    passes: float = 0.0
    texts: float = 0.0
    holds: frozenset[PeakMemory] = frozenset()

    def __add__(self, other: Count) -> Count:
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Count)[:-1]}
        return Count(**sums, holds=self.holds | other.holds)

    def __mul__(self, times: float) -> Count:
        return Count(**{one.name: getattr(self, one.name) * times for one in fields(Count)[:-1]}, holds=self.holds)

    def beside(self, kept: float) -> Count:
        """The same work while so many more tokens times layers of keys and values are kept."""
        return replace(self, holds=frozenset(replace(one, kept=one.kept + kept) for one in self.holds))

    def peak(self, shape: Shape, itemsize: int) -> float:
        """The most bytes in memory at once, without the weights."""
        return max((one.bytes(shape, itemsize) for one in self.holds), default=0.0)

    @property
    def token_layers(self) -> float:
        """Tokens times layers of every kind."""
        return self.whole + self.again + self.trained + self.mlp

    def flops(self, shape: Shape) -> float:
        """The same in floating-point operations, two to a multiplication and addition.

        Weights are frozen: the way back through a layer costs what the way there does. Left out: norms, softmax.
        """
        mlp = 3 * shape.d_model * shape.d_mlp
        attention = 2 * shape.d_model * (shape.n_heads + shape.n_kv_heads) * shape.d_head
        layers = (self.whole + self.again + 2 * self.trained) * (attention + mlp) + self.mlp * mlp
        return 2 * (layers + self.answers * shape.d_model * shape.vocabulary) + 4 * self.seen * (
            shape.n_heads * shape.d_head
        )


@dataclass(frozen=True)
class Sizes:
    """A model's shape, and how much goes through it at once."""

    shape: Shape
    chunks: Chunks


def total(counts: Iterable[Count]) -> Count:
    """All of them together."""
    return sum(counts, Count())


def whole_run(prompts: Prompts, layers: int, answers: bool = False) -> Count:
    """A run of whole prompts that stops above so many layers, or ends in the logits of the last token.

    In the latter that token alone goes through the last MLP.
    """
    seen, batch = prompts.tokens * (prompts.tokens + 1) / 2, prompts.in_batch
    return Count(
        whole=prompts.count * (prompts.tokens * (layers - answers) + answers),
        seen=prompts.count * seen * layers,
        answers=prompts.count * answers,
        passes=prompts.batches,
        holds=frozenset([PeakMemory(passing=batch * prompts.tokens, answers=batch * answers)]),
    )


def source_run(prompts: Prompts, last: int) -> Count:
    """A run of whole prompts whose head outputs are read up to layer `last`, the MLP of which is not run.

    A layer that runs its attention alone counts in `seen`, not in `whole`.
    """
    read = whole_run(prompts, last + 1)
    return replace(read, whole=prompts.count * prompts.tokens * last)


def captured_run(prompts: Prompts, layers: int, background: bool = False) -> Count:
    """A run of whole prompts that is kept: its keys and values; with a background all other tokens' head outputs."""
    held = prompts.in_batch * prompts.tokens
    hold = PeakMemory(kept=held * (layers - 0.5), passing=held, outputs=held * layers * background)
    return replace(whole_run(prompts, layers, answers=True), holds=frozenset([hold]))


def suffix_run(sizes: Sizes, prompts: Prompts, live: int, start: int, variants: int, copies: int = 1) -> Count:
    """Variants of `live` tokens at the end of each prompt, recomputed from layer `start` up; one in the last MLP."""
    laid, layers = sizes.chunks.plan_passes(variants, prompts.in_batch, live, copies), sizes.shape.n_layers - start
    run = prompts.count * sum(rows * branches for _, rows, branches in laid)
    sees = live * (prompts.tokens - live) + live * (live + 1) / 2
    return Count(
        again=run * (copies * live * (layers - 1) + 1),
        seen=run * copies * sees * layers,
        answers=run,
        passes=prompts.batches * len(laid),
        holds=frozenset(
            _suffix_hold(sizes, prompts, live, start, rows * copies, branches) for _, rows, branches in laid
        ),
    )


def _suffix_hold(sizes: Sizes, prompts: Prompts, live: int, start: int, rows: int, branches: int) -> PeakMemory:
    """The capture, a copy of its prefix for every row, and the keys and values of all but the last layer's tokens."""
    batch, layers = prompts.in_batch, sizes.shape.n_layers - start
    prefix, side = prompts.tokens - live, branches * live
    tokens = batch * rows * side
    own = batch * prompts.tokens * sizes.shape.n_layers
    copied = batch * rows * prefix * (layers + 1)
    mask = batch * rows * side * (prefix + side)
    return PeakMemory(own + copied + tokens * max(layers - 1, 0), tokens, mask=mask, answers=batch * rows * branches)


def trained_run(sizes: Sizes, prompts: Prompts, live: int, start: int, copies: int = 1) -> Count:
    """One variant, and the way back through it; until then what went through all layers but the last is kept."""
    once, layers = suffix_run(sizes, prompts, live, start, 1, copies), sizes.shape.n_layers - start
    saved = prompts.in_batch * live * (layers - 1)
    holds = frozenset(replace(one, saved=saved) for one in once.holds)
    return Count(trained=once.again, seen=3 * once.seen, answers=2 * once.answers, passes=2 * once.passes, holds=holds)


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
    """Runs of whole prompts of which heads are read, of so many layers."""
    return total(source_run(one, layers - 1) for one in rows.of(count))


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
                source = source_run(one, max(layers(sets))).beside(one.cached_tokens(rows.top))
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
    Training reads the target's logit, and the unembedding is taken to be a linear layer, of which no more is computed.
    """
    steps = ceil(spec.training_examples / spec.batch)
    held = min(spec.training_examples, rows.sizes.chunks.kept)
    different = max(1, round(spec.epochs * steps / spec.validate_every / 2))
    training, validation = [], []
    for one in _in_steps(rows, spec.training_examples, spec.batch):
        training.append(_preparing_work(one, rows.top, groups) * (1 if held == spec.training_examples else spec.epochs))
        for start, live in _begins(one, groups):
            training.append(replace(trained_run(rows.sizes, one, live, start), answers=0.0) * spec.epochs)
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
    return captured_run(prompts, top) + source_run(prompts, last)


def knockout(rows: Rows, count: int, blind: str, firsts: Sequence[int]) -> Count:
    """One edge blocked from each of these layers up."""
    found = []
    for one in rows.of(count, [blind]):
        found.append(captured_run(one, rows.top))
        found += [suffix_run(rows.sizes, one, one.live([blind]), first, 1) for first in firsts]
    return total(found)


def every_head(rows: Rows, count: int, at: str) -> Count:
    """Each head at a position patched in turn, from its layer up, and all of them estimated from one gradient."""
    found, heads = [], rows.sizes.shape.n_heads
    for one in rows.of(count, [at]):
        found += [source_run(one, rows.top - 1), captured_run(one, rows.top)]
        found += [suffix_run(rows.sizes, one, one.live([at]), layer, heads) for layer in range(rows.top)]
        found.append(trained_run(rows.sizes, one, one.live([at]), 0))
    return total(found)


def recipient_input_work(rows: Rows, count: int, group: HeadGroup, ways: int) -> Count:
    """A donor's queries, keys and values of a group in a recipient, in so many ways (§6)."""
    found, start = [], min(head.layer for head in group.heads)
    for one in rows.of(count, [group.at]):
        found += [captured_run(one, rows.top), source_run(one, rows.top - 1)]
        found.append(suffix_run(rows.sizes, one, one.live([group.at]), start, 1) * ways)
    return total(found)


def donor_input_work(rows: Rows, count: int, group: HeadGroup) -> Count:
    """What the donor of those runs."""
    last = max(head.layer for head in group.heads)
    return total(source_run(one, last) for one in rows.of(count, [group.at]))


def positions_with_heads(heads: Circuit) -> list[str]:
    """The positions of groups that have heads."""
    return [group.at for group in heads.groups if group.heads]


def layers(sets: Sequence[Circuit]) -> list[int]:
    """The layers of all their heads."""
    return [head.layer for heads in sets for group in heads.groups for head in group.heads]
