"""What must hold of results of DCM: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.measuring.audit import NEAR, Scores, gap, right_answers, share
from nnsight_et.methods.dcm.summary import DCMSummary
from nnsight_et.planning.plan import Job
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import GUESSED, Statement, below, near, same_heads


def audit_summary(job: Job, scores: Scores, summary: DCMSummary) -> list[float]:
    """Gaps between the summary's numbers and what the scores say; infinite for a wrong choice."""
    gaps, circuit = list[float](), summary.circuit.to_circuit()
    for row in summary.rows:
        name = f"{row.group}.{row.desideratum}"
        mask, tried = to_list(scores[f"{name}.mask"]), to_list(scores[f"{name}.masks"])
        accuracies = to_list(scores[f"{name}.accuracies"])
        good = [one for one, accuracy in zip(tried, accuracies, strict=True) if accuracy >= max(accuracies) - NEAR]
        heads = circuit.group(row.group).heads
        named = [str(head) for head, keep in zip(heads, mask, strict=True) if keep == 0]
        right = mask in good and sum(mask) == max(map(sum, good)) and named == row.selected
        gaps.append(0.0 if right else inf)
        if row.ceiling is not None:
            answers = right_answers(scores, f"{row.desideratum}.")
            gaps.append(gap(row.ceiling, share(scores[f"{name}.ceiling.predicted"], answers)))
            gaps.append(gap(row.floor, share(scores[f"{row.desideratum}.floor.predicted"], answers)))
            gaps.append(gap(row.validated, max(accuracies)))
            gaps.append(0.0 if row.selected or row.why else inf)
    return gaps


def statements(known: Known, _: str, result: MethodResult[DCMSummary]) -> Iterator[Statement]:
    """All heads of a group are selected for the variable it carries, and none for any other."""
    for row in result.summary.rows:
        name, variable = row.group, row.desideratum
        what = f"{name}, {variable}"
        if (name, variable) in known.guesses:
            yield below(f"{what}: guesses", GUESSED, row.accuracy)
            continue
        carried = known.groups[name].carries == variable
        planted = set(known.circuit.group(name).heads) if carried else set[Head]()
        yield same_heads(what, planted, {Head.parse(head) for head in row.selected})
        yield near(f"{what}: accuracy", float(carried), row.accuracy)
