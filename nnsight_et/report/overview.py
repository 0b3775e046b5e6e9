"""Tables of what there is before anything has run: the models known by name, and a plan."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nnsight_et.manifest import Faithfulness, PathPatching
from nnsight_et.models.named import EMBEDDED, NAMED, NamedModel
from nnsight_et.plan import Job, Plan, senders
from nnsight_et.report.table import Table


def models_table() -> Table:
    """The models with a name of their own."""
    rows = tuple((name, *_sizes(named), _origin(named), named.description) for name, named in NAMED.items())
    columns = ("name", "layers", "heads", "d_model", "from", "what it is")
    note = "Other models: a folder, a hub id, or an entry under models: in a manifest."
    return Table("models known by name", columns, rows, frozenset(columns[1:4]), note)


def plan_table(plan: Plan, done: Collection[str]) -> Table:
    """The jobs of a plan in the order they run; `done` names those whose results are there."""
    rows = tuple(
        (
            str(index),
            job.name,
            job.spec.method,
            ", ".join(dict.fromkeys(choice.name for choice in job.models)),
            str(getattr(job.spec, "examples", "") or getattr(job.spec, "training_examples", "–")),
            _work(job),
            ", ".join(job.needs) or "–",
            "done" if job.name in done else "to run",
        )
        for index, job in enumerate(plan.jobs, 1)
    )
    columns = ("", "experiment", "method", "models", "examples", "work", "needs", "state")
    return Table(f"plan of {plan.name}", columns, rows, frozenset({"", "examples"}))


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
