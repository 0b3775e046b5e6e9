"""Tables of what there is before anything has run: the built-in models, and a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from nnsight_et.core.errors import quantity
from nnsight_et.display.table import Table, number
from nnsight_et.manifest import Discovery, Faithfulness, PathPatching
from nnsight_et.models.catalog import EMBEDDED, KNOWN_MODELS, NamedModel, Shape
from nnsight_et.planning.cost.pieces import Estimate
from nnsight_et.planning.plan import Job, Plan, senders


def models_table() -> Table:
    """The models with a name of their own."""
    rows = []
    for name, named in KNOWN_MODELS.items():
        sizes = (named.shape.n_layers, named.shape.n_heads, named.shape.d_model)
        rows.append((name, *map(str, sizes), _origin(named), named.description))
    columns = ("name", "layers", "heads", "d_model", "from", "what it is")
    note = "Any other model: a folder, a hub id, or an entry under models: in a manifest."
    return Table("built-in models", columns, tuple(rows), frozenset(columns[1:4]), note)


def plan_table(
    plan: Plan,
    done: Collection[str],
    estimates: Mapping[str, Estimate],
    shapes: Mapping[str, Shape] | None = None,
    unknown: Mapping[str, str] | None = None,
) -> Table:
    """The jobs of a plan in the order they run; `done` names those whose results are there.

    estimates: what jobs are expected to cost, by name; minutes are shown where one has them. shapes: sizes of models
    that the plan itself does not know. unknown: model -> why its sizes are not known.
    """
    timed = any(estimate.seconds is not None for estimate in estimates.values())
    rows = tuple(
        (
            str(index),
            job.name,
            job.spec.method,
            ", ".join(dict.fromkeys(choice.name for choice in job.models)),
            str(getattr(job.spec, "examples", "") or getattr(job.spec, "training_examples", "–")),
            _work(job, shapes or {}),
            *_costs(estimates.get(job.name), timed),
            ", ".join(job.needs) or "–",
            "done" if job.name in done else "to run",
        )
        for index, job in enumerate(plan.jobs, 1)
    )
    costs = ("TFLOP", "memory", "minutes")[: 2 + timed]
    columns = ("", "experiment", "method", "models", "examples", "work", *costs, "needs", "state")
    note = " ".join((*_in_all(estimates), *_without(plan, estimates, unknown or {})))
    return Table(f"plan of {plan.name}", columns, rows, frozenset({"", "examples", *costs}), note)


def _costs(estimate: Estimate | None, timed: bool) -> tuple[str, ...]:
    if estimate is None:
        return ("–",) * (2 + timed)
    minutes = None if estimate.seconds is None else estimate.seconds / 60
    return (f"{estimate.flops / 1e12:,.2f}", _gib(estimate.peak), number(minutes))[: 2 + timed]


def _in_all(estimates: Mapping[str, Estimate]) -> Iterator[str]:
    """What all experiments cost together."""
    if estimates:
        every = estimates.values()
        flops, peak = sum(one.flops for one in every), max(one.peak for one in every)
        seconds = [one.seconds for one in every if one.seconds is not None]
        times = f", about {sum(seconds) / 60:.1f} minutes" if seconds else ""
        text = f"Total: {flops / 1e12:,.1f} TFLOP{times}, at most {_gib(peak)} at once, self-checks"
        yield f"{text} {'included in the time' if seconds else 'not counted'}; by formula: docs/performance.md."


def _without(plan: Plan, estimates: Mapping[str, Estimate], unknown: Mapping[str, str]) -> Iterator[str]:
    """Which experiments have no estimate, and why."""
    missing = [job for job in plan.jobs if job.name not in estimates]
    if missing:
        yield f"Not counted: {', '.join(job.name for job in missing)}."
    if any(job.engine == "reference" for job in missing):
        yield "The reference engine has no estimate."
    names = dict.fromkeys(choice.name for job in missing for choice in job.models)
    yield from (f"{unknown[name]}." for name in names if name in unknown)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _work(job: Job, shapes: Mapping[str, Shape]) -> str:
    spec, models = job.spec, quantity(len(job.models), "model")
    if isinstance(spec, PathPatching):
        name = job.models[0].name
        most = senders(job, shapes.get(name))
        found = (
            "number of senders unknown until the model is read"
            if most is None
            else f"at most {quantity(most, 'sender')}"
        )
        return f"{quantity(len(spec.stages), 'stage')}, {found}"
    if isinstance(spec, Discovery):
        return f"at most {quantity(spec.branches, 'branch', 'branches')}; all numbers are upper bounds"
    if isinstance(spec, Faithfulness):
        return f"{models}, {quantity(spec.random_circuits, 'random circuit')} each"
    return models if job.models else "no model"


def _origin(named: NamedModel) -> str:
    if Path(named.spec.path).is_relative_to(EMBEDDED):
        return "this package"
    return named.spec.path + (f" + {named.spec.adapter}" if named.spec.adapter else "")
