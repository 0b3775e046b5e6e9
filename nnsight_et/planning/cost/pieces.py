"""What experiments are made of when their cost is counted: measurements on each of their models.

And the circuits they will have, as far as they are known before a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Generic, TypeVar

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup, Mlp
from nnsight_et.manifest import Discovery, PathPatching
from nnsight_et.manifest import Experiment as Spec
from nnsight_et.manifest.methods.path_patching import Stage
from nnsight_et.manifest.written import Measured, is_shipped
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.cost import methods
from nnsight_et.planning.cost.methods import Count, Rows
from nnsight_et.planning.plan import Job, Plan


def expected_circuits(plan: Plan, found: Mapping[str, Circuit], shapes: Mapping[str, Shape]) -> dict[str, Circuit]:
    """Experiment -> the circuit it finds, or, for one on a circuit, the one it uses.

    What was `found` is taken as it is, what is shipped too. A circuit still to be found by path patching has as many
    heads as its stages keep, and one of discovery heads at all positions; pruning is taken to remove none.
    """
    expected: dict[str, Circuit] = {}
    for job in plan.jobs:
        if job.name in found:
            expected[job.name] = found[job.name]
        elif isinstance(job.spec, PathPatching) and job.models[0].name in shapes:
            expected[job.name] = _of_stages(job, job.spec, shapes[job.models[0].name])
        elif isinstance(job.spec, Discovery) and job.models[0].name in shapes:
            expected[job.name] = _at_any(job.spec.places(job.task.all_positions), shapes[job.models[0].name])
        elif (used := circuit_used_by(job, expected)) is not None:
            expected[job.name] = used
    return expected


def circuit_used_by(job: Job, expected: Mapping[str, Circuit]) -> Circuit | None:
    """The circuit a job is on: from a file, shipped, or expected of an earlier one; None where there is none."""
    name = _circuit_name(job)
    if name is None or name in job.circuits:
        return None if name is None else job.circuits[name]
    return published.circuit(name.partition("/")[2]) if is_shipped(name) else expected.get(name)


def lacks_circuit(job: Job, expected: Mapping[str, Circuit]) -> bool:
    """Whether a job is on a circuit that has no heads, or of which nothing is known, as nothing is of its model."""
    if _circuit_name(job) is None:
        return False
    used = circuit_used_by(job, expected)
    return used is None or not used.size


def _circuit_name(job: Job) -> str | None:
    return next(iter(job.spec.circuit_names), getattr(job.spec, "roles", None))


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
    """A random circuit at the same positions for counting cost: heads from the first layer to the last."""
    return _at_any(circuit.positions, shape)


def _at_any(positions: Iterable[str], shape: Shape) -> Circuit:
    heads = (Head(0, 0), Head(shape.n_layers - 1, 0))
    return Circuit(tuple(HeadGroup(at, at, heads) for at in positions))


M = TypeVar("M", bound=Spec)
Piece = tuple[str, str, Count]
"""What is measured, empty if no other experiment measures the same; the model's name; and what it costs."""


@dataclass(frozen=True)
class CostSetting(Generic[M]):
    """A job, its models' prompts and sizes by name, and the circuits that are found or expected."""

    job: Job[M]
    rows: Mapping[str, Rows]
    circuits: Mapping[str, Circuit]

    @property
    def first(self) -> tuple[str, Rows]:
        """The job's only, or first, model."""
        name = self.job.models[0].name
        return name, self.rows[name]

    @property
    def circuit(self) -> Circuit:
        """Those groups of the job's circuit that have heads."""
        found = circuit_used_by(self.job, self.circuits) or Circuit(())
        return Circuit(tuple(group for group in found.groups if group.heads))


def texts_made(split: str, texts: float, name: str) -> Piece:
    """Prompts that are made and encoded, once for models of one tokenizer."""
    return f"texts {split} {texts}", name, Count(texts=texts)


def ablation_means(setting: CostSetting[Any], name: str) -> Iterator[Piece]:
    """What ablated heads output, measured once per model."""
    spec = setting.job.spec
    assert isinstance(spec, Measured)
    if spec.ablation == "mean":
        count, rows = spec.ablation_examples, setting.rows[name]
        yield texts_made("ablation", count, name)
        yield f"{name}: means of {count}", name, methods.whole(rows, count, rows.top)


def circuits_alone(setting: CostSetting[Any], name: str, circuits: int) -> Piece:
    """So many circuits alone, on all examples."""
    spec, rows = setting.job.spec, setting.rows[name]
    assert isinstance(spec, Measured)
    count = methods.circuit_work(rows, spec.examples, circuits, setting.circuit.positions)
    if spec.ablation == "resample" and circuits:
        count += methods.whole(rows, spec.examples, rows.top)
    return "", name, count


def sets_of_groups(circuit: Circuit) -> list[Circuit]:
    """Each of its groups alone, and no heads."""
    return [*(Circuit((group,)) for group in circuit.groups), Circuit(())]


@dataclass(frozen=True)
class Estimate:
    """What an experiment is expected to cost: tokens times layers, floating-point operations, bytes, seconds."""

    token_layers: float
    flops: float
    peak: float
    seconds: float | None
    """None where no speed was measured."""
