"""What must hold of results of completeness: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.measuring.audit import Scores, gap, right_answers, share
from nnsight_et.methods.completeness.summary import CompletenessSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import CLOSE, LOST, Statement, near


def audit_summary(job: Job, scores: Scores, summary: CompletenessSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps = list[float]()
    for number, row in enumerate(summary.rows):
        found = [share(scores[f"{name}.predicted"][number], right_answers(scores)) for name in ("circuit", "model")]
        gaps += [gap(row.circuit, found[0]), gap(row.model, found[1])]
        gaps.append(gap(row.completeness, abs(found[0] - found[1])))
    return gaps


def statements(known: Known, experiment: str, result: MethodResult[CompletenessSummary]) -> Iterator[Statement]:
    """Circuit and model lose alike; without a stand-in that the circuit lacks, the circuit alone loses."""
    rows = {row.removed: row for row in result.summary.rows}
    lacking = {"incomplete": known.circuit.groups[0].name}.get(experiment)
    title = f"lacking {known.circuit.groups[0].heads[-1]}" if lacking else "circuit"
    for name, group in known.groups.items():
        row = rows[name]
        yield near(f"{title} without {name}: difference", float(name == lacking), row.completeness)
        left = 1.0 if name == lacking or not group.missed else 0.0
        yield near(f"model without {name}", left, row.model, LOST if not left else CLOSE)
    if drawn := result.summary.halves:
        yield near(f"{title} without random halves: difference", 0.0, drawn.completeness.mean)
