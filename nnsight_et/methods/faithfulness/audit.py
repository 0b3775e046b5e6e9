"""What must hold of results of faithfulness: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.measuring.audit import Scores, gap, right_answers, share
from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, near


def audit_summary(job: Job, scores: Scores, summary: FaithfulnessSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps = list[float]()
    for row in summary.rows:
        name = row.model
        answers = right_answers(scores, f"{name}.")
        full = share(scores[f"{name}.model.predicted"], answers)
        circuit = share(scores[f"{name}.circuit.predicted"][0], answers)
        gaps += [gap(row.full, full), gap(row.circuit, circuit)]
        gaps.append(gap(row.faithfulness, circuit / full if full else float("nan")))
    return gaps


def statements(_: Known, __: str, result: MethodResult[FaithfulnessSummary]) -> Iterator[Statement]:
    """The model answers every prompt, and so does its circuit alone."""
    (row,) = result.summary.rows
    yield near("full model", 1.0, row.full)
    yield near("circuit alone", 1.0, row.circuit)
