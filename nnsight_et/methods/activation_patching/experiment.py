"""Functionality jobs (§5.2-5.3, Fig. 3, A8, A9, Table A11): heads selected by DCM, or whole groups, in every model."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from nnsight_et.core.batch import right_tokens
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.display.measurement import no_rows
from nnsight_et.manifest import ActivationPatching
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods.activation_patching import audit, present
from nnsight_et.methods.activation_patching.summary import ActivationPatchingSummary, PatchedGroup
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.dcm.experiment import of_each, patching_measurement, selected_heads
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.records import CircuitRecord, Interval

SPLIT = "evaluation"


def check(context: RunContext, job: Job[ActivationPatching]) -> None:
    """Raise TaskError if the data cannot be made, or shipped roles do not fit a model."""
    spec = job.spec
    for choice in job.models:
        circuit = selected_heads(context, spec.roles).circuit if is_shipped(spec.roles) else None
        context.models.check_circuit(job, choice, circuit)
        for name in spec.desiderata or ():
            context.data.swapped_pairs(job, choice, name, split=SPLIT, count=1)


def measure(
    context: RunContext, job: Job[ActivationPatching]
) -> Generator[Progress, None, MethodOutput[ActivationPatchingSummary]]:
    """Each desideratum's heads of every group, patched in each model, on several draws of fresh examples."""
    spec = job.spec
    roles = selected_heads(context, spec.roles, spec.desiderata or ())
    rows, scores, digests = list[PatchedGroup](), dict[str, Tensor](), list[str]()
    for choice in job.models:
        context.models.check_circuit(job, choice, roles.circuit)
        sets = {name: roles.sets(name) for name in spec.desiderata or roles.desiderata}
        drawn = [
            {
                name: context.data.swapped_pairs(job, choice, name, split=SPLIT, count=spec.examples, draw=draw)
                for name in sets
            }
            for draw in range(spec.draws)
        ]
        tests = [
            patching_measurement(context, job, choice, sets, examples, f"{choice.name} draw {draw}")
            for draw, examples in enumerate(drawn, start=1)
        ]
        yield from measure_cells(context, tests)
        digests += [data_digest(examples[name]) for name in sets for examples in drawn]
        found = [of_each(context.cells.values(test), sets) for test in tests]
        for name in sets:
            right = list[Tensor]()
            for readouts, examples in zip(found, drawn, strict=True):
                right.append(is_right(readouts[name]["predicted"], right_tokens(examples[name])).double())
            values = torch.stack([one.mean(-1) for one in right], -1)  # [set + 1, draw]
            bounds = accuracy_intervals(torch.cat(right, -1))  # of all draws' examples together
            scores[f"{choice.name}.{name}.accuracy"] = values
            rows += _rows(choice.name, name, sets[name], values, bounds)
    summary = ActivationPatchingSummary(rows=rows, circuit=CircuitRecord.of(roles.circuit))
    return MethodOutput(scores, summary, digest(digests))


def _rows(
    model: str, name: str, sets: Sequence[Circuit], values: Tensor, bounds: Sequence[Interval]
) -> list[PatchedGroup]:
    """A row per set, from accuracies [set + 1, draw] and their intervals [set + 1]; the last with nothing patched."""
    return [
        PatchedGroup(
            model=model,
            group=heads.groups[0].name,
            desideratum=name,
            heads=heads.size,
            mean=of_draws.mean().item(),
            std=of_draws.std(correction=0).item(),
            mean_interval=interval,
            do_nothing=values[-1].mean().item(),
            do_nothing_interval=bounds[-1],
            draws=len(of_draws),
        )
        for heads, of_draws, interval in zip(sets, values[:-1], bounds[:-1], strict=True)
    ]


EXPERIMENT = Experiment(
    check=check,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=no_rows,
    paper=present.paper_numbers,
    statements=audit.statements,
)
