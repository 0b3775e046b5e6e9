"""Tables of what there is before anything has run: the models known by name, and a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from nnsight_et.cost.plans import Estimate
from nnsight_et.manifest import Faithfulness, PathPatching
from nnsight_et.models.named import EMBEDDED, NAMED, NamedModel
from nnsight_et.plan import Job, Plan, senders
from nnsight_et.report.table import Table, number


def models_table() -> Table:
    """The models with a name of their own."""
    rows = tuple((name, *_sizes(named), _origin(named), named.description) for name, named in NAMED.items())
    columns = ("name", "layers", "heads", "d_model", "from", "what it is")
    note = "Other models: a folder, a hub id, or an entry under models: in a manifest."
    return Table("models known by name", columns, rows, frozenset(columns[1:4]), note)


def plan_table(plan: Plan, done: Collection[str], estimates: Mapping[str, Estimate]) -> Table:
    """The jobs of a plan in the order they run; `done` names those whose results are there.

    estimates: what jobs are expected to cost, by name; minutes are shown where one has them.
    """
    timed = any(estimate.seconds is not None for estimate in estimates.values())
    rows = tuple(
        (
            str(index),
            job.name,
            job.spec.method,
            ", ".join(dict.fromkeys(choice.name for choice in job.models)),
            str(getattr(job.spec, "examples", "") or getattr(job.spec, "training_examples", "–")),
            _work(job),
            *_costs(estimates.get(job.name), timed),
            ", ".join(job.needs) or "–",
            "done" if job.name in done else "to run",
        )
        for index, job in enumerate(plan.jobs, 1)
    )
    costs = ("TFLOP", "memory", "minutes")[: 2 + timed]
    columns = ("", "experiment", "method", "models", "examples", "work", *costs, "needs", "state")
    return Table(f"plan of {plan.name}", columns, rows, frozenset({"", "examples", *costs}), _note(estimates))


def _costs(estimate: Estimate | None, timed: bool) -> tuple[str, ...]:
    if estimate is None:
        return ("–",) * (2 + timed)
    minutes = None if estimate.seconds is None else estimate.seconds / 60
    return (f"{estimate.flops / 1e12:,.2f}", _gib(estimate.peak), number(minutes))[: 2 + timed]


def _note(estimates: Mapping[str, Estimate]) -> str:
    """What all experiments cost together."""
    if not estimates:
        return "What it costs is not known: it is for the default engine, and for models of known sizes."
    every = estimates.values()
    flops, peak = sum(one.flops for one in every), max(one.peak for one in every)
    seconds = [one.seconds for one in every if one.seconds is not None]
    times = f", about {sum(seconds) / 60:.1f} minutes" if seconds else ""
    text = f"In all {flops / 1e12:,.1f} TFLOP{times}, at most {_gib(peak)} at once, self-checks"
    return f"{text} {'included in the time' if seconds else 'not counted'}; by formula: docs/performance.md."


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _work(job: Job) -> str:
    spec, models = job.spec, f"{len(job.models)} model{'s' * (len(job.models) != 1)}"
    if isinstance(spec, PathPatching):
        count = senders(job)
        most = "senders not known before the model is read" if count is None else f"at most {count} senders"
        return f"{len(spec.stages)} stages, {most}"
    if isinstance(spec, Faithfulness):
        return f"{models}, {spec.random_circuits} random circuits each"
    return models if job.models else "no model"


def _sizes(named: NamedModel) -> tuple[str, str, str]:
    shape = named.shape
    return str(shape.n_layers), str(shape.n_heads), str(shape.d_model)


def _origin(named: NamedModel) -> str:
    if Path(named.spec.path).is_relative_to(EMBEDDED):
        return "this package"
    return named.spec.path + (f" + {named.spec.adapter}" if named.spec.adapter else "")
