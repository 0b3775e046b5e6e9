"""Discovery: its record."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.core.circuit import Head
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import Discovery
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.methods.sections import CIRCUITS
from nnsight_et.planning.cost.methods import Count as Count
from nnsight_et.planning.cost.methods import total
from nnsight_et.planning.cost.paths import path_patching, probing
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[Discovery]) -> Iterator[Piece]:
    """A bound: as many branches as may be opened, each at the first position, all they keep probed and tested."""
    spec, (name, rows) = setting.job.spec, setting.first
    shape, places = rows.sizes.shape, spec.places(setting.job.task.all_positions)
    yield texts_made("discovery", 2 * (spec.examples + spec.held_out_examples), name)
    first, every = places[0], tuple(Head(layer, 0) for layer in range(1, shape.n_layers))
    last = Path(places[-1])
    worst = Path(first, "key", every) if every else last
    searched, again = (
        total(
            path_patching(rows.sizes, one, path, path.reaching(shape.n_layers, shape.n_heads, shape.parallel)[:most])
            * times
            for path, times in ((last, 1), (worst, spec.branches))
            for one in rows.of(count, [path.at])
        )
        for count, most in ((spec.examples, None), (spec.held_out_examples, spec.keep))
    )
    nodes = min(spec.keep * (spec.branches + 1), shape.n_layers * shape.n_heads * len(places))
    inputs = 1 + 2 * len(places)
    layers, half = list(range(shape.n_layers)), 2 * shape.n_layers
    asked = (1, 7 * inputs * nodes, 5 * inputs * nodes), (spec.branches, half, half)
    probed = total(
        probing(rows.sizes, one, {(first, "key"): (layers, variants, sets)}) * times
        for times, variants, sets in asked
        for one in rows.of(spec.examples, [first])
    )
    found = searched + probed
    most = spec.budget.token_layers if spec.budget else None
    yield "", name, (found if most is None else found * min(1.0, most / found.token_layers)) + again


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
