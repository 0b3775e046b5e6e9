"""What must hold of results of CMAP: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.measuring.audit import Scores, gap, right_answers, share
from nnsight_et.methods.cmap.summary import CMAPSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import LOST, MOVED, Statement, below, near


def audit_summary(job: Job, scores: Scores, summary: CMAPSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    rows = [row for row in summary.rows if row.patched == "output"]
    predicted = scores["output.predicted"]
    return [gap(row.accuracy, share(predicted[i], right_answers(scores))) for i, row in enumerate(rows)]


def statements(known: Known, _: str, result: MethodResult[CMAPSummary]) -> Iterator[Statement]:
    """Patched groups before the one that differs move nothing, it and those after it all of the gap."""
    summary = result.summary
    silenced = summary.recipient.removeprefix("without-")
    reached = known.downstream(silenced)
    told = {(known.groups[name].into, known.groups[name].via) for name in reached} | {(silenced, "key")}
    low, high = summary.models[summary.recipient], summary.models[summary.donor]
    yield near("donor alone", 1.0, high)
    yield below("recipient alone", LOST, low)
    for row in summary.rows:
        name, patched = row.group, row.patched
        whole = (name, patched) in told
        if patched in ("output", "query+key+value"):
            whole = name == "all" or name in reached
        share = (row.accuracy - low) / (high - low) if high > low else float("nan")
        yield near(f"{silenced} silenced; {patched} of {name}: share of the gap", float(whole), share, MOVED)
