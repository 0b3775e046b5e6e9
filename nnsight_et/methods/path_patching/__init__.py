"""Path patching: its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnsight_et.core.circuit import Component
from nnsight_et.core.named_metrics import METRICS
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import PathPatching
from nnsight_et.methods.base import Experiment, Method
from nnsight_et.methods.path_patching.reads import stage_reads
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.methods.sections import CIRCUITS
from nnsight_et.planning.cost import pieces
from nnsight_et.planning.cost.methods import total
from nnsight_et.planning.cost.paths import estimates, kept_runs, path_patching
from nnsight_et.planning.cost.pieces import CostSetting, Piece, texts_made


def cost(setting: CostSetting[PathPatching]) -> Iterator[Piece]:
    """What its jobs measure on each model, and what that costs: of stages with a screen the most that it can be."""
    spec, (name, rows) = setting.job.spec, setting.first
    shape = rows.sizes.shape
    known = dict[str, Sequence[Component]]()
    yield texts_made("discovery", 2 * spec.examples, name)
    for index, stage in enumerate(spec.stages):
        receivers = pieces.receivers(setting.job, stage, setting.circuits, shape)
        known |= {stage.into: receivers} if stage.via else {}
        path = Path(stage.at, stage.via, receivers, stage.kv_heads, stage.senders)
        every = path.reaching(shape.n_layers, shape.n_heads, shape.parallel)
        keeping = set(pieces.kept_components(setting.job, stage, setting.circuits, shape))
        kept = [one for one in every if one in keeping]
        for senders, count in ((every, spec.examples), (kept, spec.held_out_examples)):
            if senders and count:
                prompts = rows.of(count, [stage.at])
                found = total(path_patching(rows.sizes, one, path, senders) for one in prompts)
                if senders is every and stage.screen is not None:
                    found += total(
                        estimates(rows.sizes, one, path) for one in prompts if stage.has_estimates(spec.metric)
                    )
                    reads = stage_reads(spec.stages, index, known, shape)
                    again = METRICS[spec.metric].compares
                    beside = [kept_runs(rows.sizes, one, reads, spec.examples, again) for one in rows.prompts]
                    found = found.beside(max(beside))
                yield "", name, found


def _experiment() -> Experiment[PathPatching, PathPatchingSummary]:
    from nnsight_et.methods.path_patching.experiment import EXPERIMENT

    return EXPERIMENT


METHOD = Method(
    name="path_patching",
    spec=PathPatching,
    summary=PathPatchingSummary,
    cost=cost,
    section=CIRCUITS,
    experiment=_experiment,
)
