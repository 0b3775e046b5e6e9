"""The circuits an experiment will have, as far as they are known before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup, Mlp
from nnsight_et.manifest import PathPatching
from nnsight_et.manifest.methods.path_patching import Stage
from nnsight_et.manifest.written import is_shipped
from nnsight_et.models.named import Shape
from nnsight_et.planning.plan import Job, Plan


def circuits(plan: Plan, found: Mapping[str, Circuit], shapes: Mapping[str, Shape]) -> dict[str, Circuit]:
    """Experiment -> the circuit it finds, or, for one on a circuit, the one it uses.

    What was `found` is taken as it is, what is shipped too. A circuit still to be found by path patching has as many
    heads as its stages keep; pruning is taken to remove none.
    """
    expected: dict[str, Circuit] = {}
    for job in plan.jobs:
        if job.name in found:
            expected[job.name] = found[job.name]
        elif isinstance(job.spec, PathPatching) and job.models[0].name in shapes:
            expected[job.name] = _of_stages(job, job.spec, shapes[job.models[0].name])
        else:
            used = circuit_used_by(job, expected)
            if used is not None:
                expected[job.name] = used
    return expected


def circuit_used_by(job: Job, expected: Mapping[str, Circuit]) -> Circuit | None:
    """The circuit a job is on: from a file, shipped, or expected of an earlier one; None where there is none."""
    roles = getattr(job.spec, "roles", None)
    names = job.spec.circuit_names[:1] or ((roles,) if roles else ())
    for name in names:
        if name in job.circuits:
            return job.circuits[name]
        if is_shipped(name):
            return published.circuit(name.partition("/")[2])
        return expected.get(name)
    return None


def receivers(job: Job, stage: Stage, found: Mapping[str, Circuit], shape: Shape) -> tuple[Component, ...]:
    """The receivers of a stage: as many as it has, the best of those the group it patches into keeps."""
    for earlier in job.spec.stages if isinstance(job.spec, PathPatching) else ():
        if stage.via and earlier.group == stage.into:
            return kept_components(job, earlier, found, shape)[: earlier.receivers or earlier.keep]
    return ()


def kept_components(job: Job, stage: Stage, found: Mapping[str, Circuit], shape: Shape) -> tuple[Component, ...]:
    """What a stage keeps: the heads of its group where the job's circuit is found, else as many as it asks for."""
    groups = found[job.name].groups if job.name in found else ()
    known = [group.heads for group in groups if group.name == stage.group]
    return known[0] if any(known) else _parts(job, stage, shape)


def _of_stages(job: Job, spec: PathPatching, shape: Shape) -> Circuit:
    """MLPs belong to no circuit."""
    of_heads = [stage for stage in spec.stages if stage.senders == "heads"]
    groups = ((stage, _parts(job, stage, shape)) for stage in of_heads)
    return Circuit(tuple(HeadGroup(one.group, one.at, tuple(Head(*part) for part in parts)) for one, parts in groups))


def _parts(job: Job, stage: Stage, shape: Shape) -> tuple[Component, ...]:
    """As many heads as the stage keeps, in turn from the layers where its group is expected; or MLPs, the nearest.

    Those of the shipped circuit of the model, if it has this group. Else stages are taken to lie evenly over the
    layers, the first one nearest to the logits.
    """
    name, spec = job.models[0].name, job.spec
    assert isinstance(spec, PathPatching)
    depth = {"logits": 0}
    for one in spec.stages:
        depth[one.group] = depth[one.into] + 1
    deepest = max(depth.values()) + 1
    middle = shape.n_layers * (1 - depth[stage.group] / deepest)
    if stage.senders == "mlps":
        near = sorted(range(shape.n_layers), key=lambda layer: (abs(layer - middle), layer))
        return tuple(Mlp(layer) for layer in near[: stage.keep])
    shipped = published.circuit(name) if name in (*published.CIRCUITS, *published.EMBEDDED) else Circuit(())
    known = [head.layer for group in shipped.groups if group.name == stage.group for head in group.heads]
    among = known or [min(floor(middle), shape.n_layers - 1), min(ceil(middle), shape.n_layers - 1)]
    return tuple(Head(among[i % len(among)], i % shape.n_heads) for i in range(stage.keep))


def anywhere(circuit: Circuit, shape: Shape) -> Circuit:
    """A random circuit of the same positions, as far as its cost goes: heads from the first layer to the last."""
    heads = (Head(0, 0), Head(shape.n_layers - 1, 0))
    return Circuit(tuple(HeadGroup(at, at, heads) for at in circuit.positions))
