"""Discovery: its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from nnsight_et.core.circuit import Head
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import Discovery
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.methods.sections import CIRCUITS
from nnsight_et.planning.cost.methods import Count, Rows, total
from nnsight_et.planning.cost.paths import ProbePass, edges, path_patching, probing
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[Discovery]) -> Iterator[Piece]:
    """A bound: as many branches as may be opened, each at the first position, all they keep probed and tested.

    A budget bounds the search; on held-out examples as many of these branches are tested as it pays for.
    """
    spec, (name, rows) = setting.job.spec, setting.first
    shape, places = rows.sizes.shape, spec.places(setting.job.task.all_positions)
    yield texts_made("discovery", 2 * (spec.examples + spec.held_out_examples), name)
    first, every = places[0], tuple(Head(layer, 0) for layer in range(1, shape.n_layers))
    last = Path(places[-1])
    worst = Path(first, "key", every) if every else last
    senders = {path: path.reaching(shape.n_layers, shape.n_heads, shape.parallel) for path in (last, worst)}
    into_logits, branch = (
        total(path_patching(rows.sizes, one, path, senders[path]) for one in rows.of(spec.examples, [path.at]))
        for path in (last, worst)
    )
    others = branch * spec.branches + _probed(spec, rows, places)
    most = spec.budget.token_layers if spec.budget else None
    share = 1.0 if most is None else min(1.0, max(0.0, most - into_logits.token_layers) / others.token_layers)
    tested = [(last, senders[last][: spec.keep]), *[(worst, senders[worst][: spec.keep])] * ceil(share * spec.branches)]
    held_out = total(edges(rows.sizes, one, tested) for one in rows.of(spec.held_out_examples, places))
    yield "", name, into_logits + others * share + held_out


def _probed(spec: Discovery, rows: Rows, places: Sequence[str]) -> Count:
    """As many nodes as may be found, and their branches' inputs; and halves of layers of every branch."""
    shape = rows.sizes.shape
    nodes = min(spec.keep * (spec.branches + 1), shape.n_layers * shape.n_heads * len(places))
    inputs = 1 + 2 * len(places)
    at, last = places[0], shape.n_layers - 1
    branches = [ProbePass(at, "key", 0, last, 7 * inputs * nodes, {0: 5 * inputs * nodes})]
    halves = [ProbePass(at, "key", layer + 1, last, 2, {layer: 2}) for layer in range(last)]
    return total(
        probing(rows.sizes, one, passes) * times
        for times, passes in ((1, branches), (spec.branches, halves))
        for one in rows.of(spec.examples, [at])
    )


def _experiment() -> Experiment[Discovery, DiscoverySummary]:
    from nnsight_et.methods.discovery.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="discovery",
    spec=Discovery,
    summary=DiscoverySummary,
    cost=cost,
    section=CIRCUITS,
    experiment=_experiment,
)
