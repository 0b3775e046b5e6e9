"""What the stages of path patching read of runs that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnsight_et.core.circuit import Component
from nnsight_et.engine.paths import Path, StageReads
from nnsight_et.manifest.methods.path_patching import Stage
from nnsight_et.models.catalog import Shape


def stage_reads(
    stages: Sequence[Stage], first: int, receivers: Mapping[str, Sequence[Component]], shape: Shape
) -> tuple[StageReads, ...]:
    """Of the stages from number `first` on that have a screen.

    receivers: of the groups that are found already. Those of others can be any that reach the end of their own stage.
    """
    last, found = dict[str, int](), list[StageReads]()
    for index, stage in enumerate(stages):
        ends = list(range(last[stage.into] + 1)) if stage.via else []
        if stage.via and stage.into in receivers:
            ends = sorted({one.layer for one in receivers[stage.into]})
        top = ends[-1] if ends else shape.n_layers - 1
        path = Path(stage.at, stage.via, senders=stage.senders)
        reaching = [layer for layer in range(top + 1) if not ends or path.reaches(layer, top, shape.parallel)]
        last[stage.group] = reaching[-1] if reaching else 0
        if index >= first and stage.screen is not None:
            found.append(StageReads(stage.at, stage.senders, frozenset(ends), top))
    return tuple(found)
