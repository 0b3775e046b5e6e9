"""What must hold of results of attention knockout: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.measuring.audit import Scores, gap, right_answers, share
from nnsight_et.methods.knockout.summary import KnockoutSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import CLOSE, LOST, Statement


def audit_summary(job: Job, scores: Scores, summary: KnockoutSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps = list[float]()
    for row in summary.rows:
        predicted = scores[f"{row.blind} to {row.to}.predicted"]
        gaps += [gap(row.accuracy[i], share(one, right_answers(scores))) for i, one in enumerate(predicted)]
    return gaps


def statements(known: Known, _: str, result: MethodResult[KnockoutSummary]) -> Iterator[Statement]:
    """Blocking a planted head's attention costs the answer up to its layer, and nothing from the next one on."""
    for row in result.summary.rows:
        expected = known.harmless_from(row.blind, row.to)
        costs = [layer for layer, accuracy in enumerate(row.accuracy) if accuracy < 1 - CLOSE]
        harmless = max(costs, default=-1) + 1
        lost = all(accuracy < LOST for accuracy in row.accuracy[:expected])
        found = f"L{harmless}" if lost else f"L{harmless}, with answers before"
        yield Statement(f"{row.blind} to {row.to}: harmless from", f"L{expected}", found, found == f"L{expected}", {})
