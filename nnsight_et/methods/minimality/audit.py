"""What must hold of results of minimality: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Minimality
from nnsight_et.measuring.audit import NEAR, Scores, gap
from nnsight_et.methods.minimality.summary import MinimalitySummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, same_heads


def audit_summary(job: Job[Minimality], scores: Scores, summary: MinimalitySummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps, seen = list[float](), dict[str, int]()
    for row in summary.heads:
        number = seen[row.group] = seen.get(row.group, -1) + 1
        before, after = to_list(scores[f"{row.group}.before_after"][number])
        gaps += [gap(row.before, before), gap(row.after, after)]
        adds = before / after - 1 if after else (inf if before else float("nan"))
        gaps.append(gap(row.contribution, adds))
        if not abs(adds - job.spec.threshold) < NEAR:
            gaps.append(0.0 if row.kept == (adds > job.spec.threshold) else inf)
    return gaps


def statements(known: Known, _: str, result: MethodResult[MinimalitySummary]) -> Iterator[Statement]:
    """Heads that cannot be missed stay, either of two that make up for each other included; all others go."""
    rows = result.summary.heads
    for name, group in known.groups.items():
        planted = set(known.circuit.group(name).heads)
        kept = {Head.parse(row.head) for row in rows if row.group == name and row.kept}
        yield same_heads(name, planted if group.missed else set[Head](), kept)
        if len(planted) == 2:
            wanted = {(head, other) for head in planted for other in planted if head != other}
            pairs = {(Head.parse(row.head), Head.parse(other)) for row in rows for other in row.without}
            pairs = {pair for pair in pairs if pair[0] in planted}
            yield Statement(f"{name}: stand-ins", _pairs(wanted), _pairs(pairs), pairs == wanted, {})


def _pairs(pairs: Iterable[tuple[Head, Head]]) -> str:
    return ", ".join(f"{other} for {head}" for head, other in sorted(pairs)) or "none"
