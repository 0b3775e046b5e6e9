"""What must hold of results of path patching: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, log1p

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import PathPatching
from nnsight_et.measuring.audit import LOST as LOST_RATIO
from nnsight_et.measuring.audit import Scores, gap
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import MATTERS, NOTHING, Statement, same_heads


def audit_summary(job: Job[PathPatching], scores: Scores, summary: PathPatchingSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps, first = list[float](), -1 if job.spec.metric == "kl" else 1
    for stage in summary.stages:
        group = stage.group
        reach, found = to_list(scores[f"{group}.reach"]), to_list(scores[f"{group}.score"])
        logs = to_list(scores[f"{group}.log_ratio"]) if job.spec.metric == "probability_ratio" else None
        ranked = list[tuple[float, int, int]]()
        for layer, row in enumerate(to_list(scores[f"{group}.per_example"])):
            for head, each in enumerate(row):
                if not reach[layer][head]:
                    gaps.append(abs(found[layer][head]))
                    continue
                ranked.append((first * found[layer][head], layer, head))
                gaps.append(gap(found[layer][head], sum(each) / len(each)))
                if logs is not None and min(each) > LOST_RATIO:
                    gaps.append(gap(logs[layer][head], sum(map(log1p, each)) / len(each)))
        best = sorted(ranked)[: len(stage.kept)]
        lowest = [f"L{layer}MLP" if stage.of_mlps else f"L{layer}H{head}" for _, layer, head in best]
        gaps.append(0.0 if lowest == [one.head for one in stage.kept] else inf)
    return gaps


def statements(known: Known, _: str, result: MethodResult[PathPatchingSummary]) -> Iterator[Statement]:
    """Every stage finds its planted heads and no other; distractors score nothing."""
    loudest = 0.0
    for group in known.circuit.groups:
        score = result.scores[f"{group.name}.score"]
        below = {Head(*place) for place in to_list((score <= MATTERS).nonzero())}
        yield same_heads(group.name, set(group.heads), below)
        loudest = max([loudest, *(abs(score[head].item()) for head in known.unread)])
    if known.unread:
        numbers = {"largest_score": loudest}
        yield Statement("distractors", f"at most {NOTHING:.0e}", f"{loudest:.1e}", loudest <= NOTHING, numbers)
