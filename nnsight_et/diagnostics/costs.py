"""What the experiments of a plan cost, less what earlier ones leave them: work, FLOPs, memory, and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnsight_et.core.circuit import Circuit
from nnsight_et.engine.budget import chunks
from nnsight_et.manifest import BoxesTask
from nnsight_et.manifest.schema import PROBED
from nnsight_et.methods import METHODS
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.cost.methods import Count, Prompts, Rows, Sizes, plain, total
from nnsight_et.planning.cost.pieces import CostSetting, Estimate, Piece, expected_circuits, lacks_circuit
from nnsight_et.planning.plan import Plan

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number of a dtype."""


@dataclass(frozen=True)
class Speeds:
    """Seconds of a model on a device: per token and layer by the kind of pass, and of what is not in layers.

    passes: of a call of the model. texts: of a prompt made and encoded. sample: of a self-check's sample. checks: of
    the checks of a model that a run makes once. loading: of reading the model.
    """

    whole: float = 0.0
    again: float = 0.0
    trained: float = 0.0
    mlp: float = 0.0
    passes: float = 0.0
    texts: float = 0.0
    sample: float = 0.0
    checks: float = 0.0
    loading: float = 0.0

    def of(self, count: Count) -> float:
        """Seconds of this work, without checks."""
        kinds = ("whole", "again", "trained", "mlp", "passes", "texts")
        return sum(getattr(self, kind) * getattr(count, kind) for kind in kinds)


@dataclass(frozen=True)
class Cost:
    """What an experiment costs on each of its models, by name, and how many kinds of measurement it makes."""

    counts: Mapping[str, Count]
    measurements: int

    @property
    def count(self) -> Count:
        """On all of them together."""
        return total(self.counts.values())

    def peak(self, rows: Mapping[str, Rows], itemsizes: Mapping[str, int]) -> float:
        """The most bytes in memory at once: one model's weights, what is captured of its prompts, and a pass."""
        needs = [
            rows[name].sizes.shape.parameters * itemsizes[name] + count.peak(rows[name].sizes.shape, itemsizes[name])
            for name, count in self.counts.items()
        ]
        return max(needs, default=0.0)

    def flops(self, rows: Mapping[str, Rows]) -> float:
        """Floating-point operations."""
        return sum(count.flops(rows[name].sizes.shape) for name, count in self.counts.items())


def costs(plan: Plan, rows: Mapping[str, Rows], found: Mapping[str, Circuit], probed: bool = False) -> dict[str, Cost]:
    """Experiment -> its cost, of those whose models and circuit's model are in `rows` and whose engine is the default.

    rows: model -> its prompts and sizes. found: experiment -> the circuit it has found already. probed: whether the
    prompts count that a model answers before it is first measured.
    """
    shapes = {name: one.sizes.shape for name, one in rows.items()}
    looked = set[str]()
    circuits, made, costs = expected_circuits(plan, found, shapes), set[str](), dict[str, Cost]()
    for job in plan.jobs:
        if job.engine == "reference" or any(choice.name not in rows for choice in job.models):
            continue
        if lacks_circuit(job, circuits):
            continue
        counts, measurements = dict[str, Count](), 0
        for name in {choice.name: None for choice in job.models} if probed else ():
            if name not in looked:
                counts[name] = plain(rows[name], PROBED)
                looked.add(name)
        for what, name, count in _pieces(CostSetting(job, rows, circuits)):
            if not what or what not in made:
                counts[name] = counts.get(name, Count()) + count
                measurements += bool(count.passes)
            made.add(what)
        costs[job.name] = Cost(counts, measurements)
    return costs


def _pieces(setting: CostSetting[Any]) -> Iterator[Piece]:
    """The measurements of a job, in order."""
    spec = setting.job.spec
    if getattr(spec, "only_correct", False):
        name, rows = setting.first
        yield "", name, plain(rows, 2 * getattr(spec, "examples", 0))
    yield from METHODS[spec.method].cost(setting)


def seconds(plan: Plan, costs: Mapping[str, Cost], speeds: Mapping[str, Speeds], checked: bool) -> dict[str, float]:
    """Experiment -> its seconds in a run of the whole plan, of those whose models' speeds are known.

    A model is read where the one before it was another; its own checks are made once in a run.
    """
    found, seen, loaded = dict[str, float](), set[tuple[str, str]](), ""
    for job in plan.jobs:
        cost = costs.get(job.name)
        if cost is None or any(choice.name not in speeds for choice in job.models):
            continue
        found[job.name] = 0.0
        for name, count in cost.counts.items():
            speed = speeds[name]
            found[job.name] += speed.of(count) + (speed.loading if name != loaded else 0.0)
            loaded = name
            if checked and (name, job.attention) not in seen:
                found[job.name] += speed.checks
                seen.add((name, job.attention))
        if checked and cost.counts:
            found[job.name] += cost.measurements * max(speeds[name].sample for name in cost.counts)
    return found


def estimates(
    plan: Plan,
    rows: Mapping[str, Rows],
    found: Mapping[str, Circuit],
    speeds: Mapping[str, Speeds] | None = None,
    checked: bool = True,
    probed: bool = False,
) -> dict[str, Estimate]:
    """Experiment -> its estimate; see costs for what is left out."""
    known = costs(plan, rows, found, probed)
    took = {} if speeds is None else seconds(plan, known, speeds, checked)
    sizes = {choice.name: BYTES[choice.dtype] for job in plan.jobs for choice in job.models}
    return {
        name: Estimate(cost.count.token_layers, cost.flops(rows), cost.peak(rows, sizes), took.get(name))
        for name, cost in known.items()
    }


def rows_of(plan: Plan, memory: int | None) -> dict[str, Rows]:
    """Model -> its prompts and sizes, of the models whose shape is known without their files, in the boxes task."""
    rows = dict[str, Rows]()
    for job in plan.jobs:
        for choice in job.models:
            if isinstance(job.task, BoxesTask) and choice.shape is not None:
                rows[choice.name] = rows_with_chunks(choice.shape, choice.dtype, boxes_prompts(job.task), memory)
    return rows


def rows_with_chunks(shape: Shape, dtype: str, prompts: tuple[Prompts, ...], memory: int | None) -> Rows:
    """A model's prompts, and the chunk sizes a run chooses for them."""
    longest = max(one.tokens for one in prompts)
    return Rows(Sizes(shape, chunks(shape, BYTES[dtype], longest, memory)), prompts)


def boxes_prompts(task: BoxesTask) -> tuple[Prompts, ...]:
    """Prompts of the boxes task, one for each box asked for, as a tokenizer with one token before the text has them."""
    length = 7 * task.boxes + 5
    ends = {"query_label": length - 3, "last": length - 1}
    return tuple(
        Prompts(1, length, {"correct_object": 7 * box + 2, "previous_query_label": 7 * box + 6} | ends)
        for box in range(task.boxes)
    )


def work_of(plan: Plan, rows: Mapping[str, Rows], found: Mapping[str, Circuit]) -> dict[str, tuple[str, float]]:
    """Experiment -> its method and its floating-point operations, of those whose models are all in `rows`.

    The reference engine's passes are counted as the default one's; a method is timed by engine, so only ratios matter.
    """
    as_default = replace(plan, jobs=tuple(replace(job, engine="default") for job in plan.jobs))
    known = costs(as_default, rows, found)
    return {
        job.name: (f"{job.spec.method} {job.engine}", known[job.name].flops(rows))
        for job in plan.jobs
        if job.name in known
    }


def expected_seconds(work: Mapping[str, tuple[str, float]], took: Mapping[str, float]) -> dict[str, float]:
    """Experiment -> about how many seconds all of it takes, scaled from those of its method that `took` so long.

    work: what work_of returns. Experiments that it has not, and those of a method that was not timed yet, are left out.
    """
    timed = dict[str, tuple[float, float]]()
    for name in took.keys() & work.keys():
        method, flops = work[name]
        seconds, sums = timed.get(method, (0.0, 0.0))
        timed[method] = seconds + took[name], sums + flops
    rates = {method: seconds / sums for method, (seconds, sums) in timed.items() if sums}
    return {
        name: rates.get(method, 0.0) * flops
        for name, (method, flops) in work.items()
        if name not in took and (method in rates or not flops)
    }
