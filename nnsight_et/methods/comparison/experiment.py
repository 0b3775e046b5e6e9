"""Comparison jobs (App. E4, F4): how two circuits overlap, and their heads by causal impact. No model."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from nnsight_et.circuits import published
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.metrics import causal_impact, circuit_overlap
from nnsight_et.manifest import Comparison
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.comparison import audit, present
from nnsight_et.methods.comparison.summary import ComparisonSummary, ImpactRecord, OverlapRow
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.records import CircuitRecord


def check(context: RunContext, job: Job[Comparison]) -> None:
    """Nothing can be wrong that the manifest does not show."""


def measure(context: RunContext, job: Job[Comparison]) -> Generator[Progress, None, MethodOutput[ComparisonSummary]]:
    """Overlap per group; with scores of the second circuit's model, the union of the heads by |score|."""
    spec = job.spec
    first, second = (context.earlier.named_circuit(job, name) for name in spec.circuits)
    overlaps = circuit_overlap(first, second)
    rows = [OverlapRow(**one._asdict(), precision=one.precision, recall=one.recall) for one in overlaps]
    summary = ComparisonSummary(rows=rows, first=CircuitRecord.of(first), second=CircuitRecord.of(second))
    if spec.scores is not None:
        impacts = causal_impact(first, second, _scores(context, spec.scores, first, second))
        found = [
            ImpactRecord(
                head=str(one.head),
                score=one.score,
                in_pretrained=one.in_pretrained,
                in_finetuned=one.in_finetuned,
            )
            for one in impacts
        ]
        summary = summary.model_copy(update={"impact": found})
    yield context.progress(job, "comparison", 1, 1, 0)
    return MethodOutput({}, summary, digest([first.to_dict(), second.to_dict()]))


def _scores(context: RunContext, name: str, first: Circuit, second: Circuit) -> Mapping[str, Any]:
    """Group -> patching scores [layer][head], of the paper's model or of the experiment that measured them."""
    if is_shipped(name):
        return published.scores(name.partition("/")[2])
    groups, given = _groups(first, second), context.earlier.scores
    if given is not None:
        return {group: given[group] for group in groups if group in given}
    found = context.earlier.results[name].read(PathPatchingSummary)
    of_heads = {stage.group for stage in found.summary.stages if not stage.of_mlps}
    return {group: found.scores[f"{group}.score"] for group in groups if group in of_heads}


def _groups(*circuits: Circuit) -> list[str]:
    return [group.name for circuit in circuits for group in circuit.groups]


EXPERIMENT = Experiment(
    check=check,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=present.heads,
    paper=present.paper_numbers,
    statements=audit.statements,
)
