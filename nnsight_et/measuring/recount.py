"""The numbers of a result's summary once more, from its tensors, in plain Python and by no formula of the jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, log1p
from typing import Any

from torch import Tensor

from nnsight_et.core.circuit import Circuit
from nnsight_et.manifest import Minimality, PathPatching
from nnsight_et.planning.plan import Job

NEAR = 1e-9  # thresholds and ties are not decided by rounding
LOST = -0.999  # of a ratio: what single precision leaves of its logarithm is not enough to compare
Scores = Mapping[str, Tensor]


def audit_summary(job: Job, scores: Scores, summary: Mapping[str, Any]) -> float | None:
    """The largest gap between a number of the summary and what its tensors say; infinite for a wrong choice of heads.

    None for methods whose summaries are not counted from tensors.
    """
    count = COUNTS.get(job.spec.method)
    return max(count(job, scores, summary), default=0.0) if count else None


def _gap(found: Any, expected: float) -> float:
    """Relative to the larger of 1 and the expected value; 0 where neither exists."""
    if expected == inf:
        return 0.0 if found == "infinite" else inf
    if expected != expected:
        return 0.0 if found != found else inf
    return abs(found - expected) / max(1.0, abs(expected)) if found == found and found != "infinite" else inf


def _answers(scores: Scores, prefix: str = "") -> list[list[int]]:
    """Per example the tokens that are right."""
    answers = scores[f"{prefix}answer"].tolist()
    more = scores[f"{prefix}also_right"].tolist() if f"{prefix}also_right" in scores else [[]] * len(answers)
    return [[answer, *others] for answer, others in zip(answers, more, strict=True)]


def _share(predicted: Tensor, answers: list[list[int]]) -> float:
    """The share of predicted tokens [example] that are among the right ones."""
    right = [one in others for one, others in zip(predicted.tolist(), answers, strict=True)]
    return sum(right) / len(right)


def _path_patching(job: Job[PathPatching], scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps, first = [], -1 if job.spec.metric == "kl" else 1
    for stage in summary["stages"]:
        group = stage["group"]
        reach, found = scores[f"{group}.reach"].tolist(), scores[f"{group}.score"].tolist()
        logs = scores[f"{group}.log_ratio"].tolist() if job.spec.metric == "probability_ratio" else None
        ranked = []
        for layer, row in enumerate(scores[f"{group}.per_example"].tolist()):
            for head, each in enumerate(row):
                if not reach[layer][head]:
                    gaps.append(abs(found[layer][head]))
                    continue
                ranked.append((first * found[layer][head], layer, head))
                gaps.append(_gap(found[layer][head], sum(each) / len(each)))
                if logs is not None and min(each) > LOST:
                    gaps.append(_gap(logs[layer][head], sum(map(log1p, each)) / len(each)))
        of_mlps = stage.get("senders") == "mlps"
        best = sorted(ranked)[: len(stage["kept"])]
        lowest = [f"L{layer}MLP" if of_mlps else f"L{layer}H{head}" for _, layer, head in best]
        gaps.append(0.0 if lowest == [head["head"] for head in stage["kept"]] else inf)
    return gaps


def _faithfulness(job: Job, scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps = []
    for row in summary["rows"]:
        name = row["model"]
        answers = _answers(scores, f"{name}.")
        full = _share(scores[f"{name}.model.predicted"], answers)
        circuit = _share(scores[f"{name}.circuit.predicted"][0], answers)
        gaps += [_gap(row["full"], full), _gap(row["circuit"], circuit)]
        gaps.append(_gap(row["faithfulness"], circuit / full if full else float("nan")))
    return gaps


def _minimality(job: Job[Minimality], scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps, seen = [], dict[str, int]()
    for row in summary["heads"]:
        number = seen[row["group"]] = seen.get(row["group"], -1) + 1
        before, after = scores[f"{row['group']}.before_after"][number].tolist()
        gaps += [_gap(row["before"], before), _gap(row["after"], after)]
        adds = before / after - 1 if after else (inf if before else float("nan"))
        gaps.append(_gap(row["contribution"], adds))
        if not abs(adds - job.spec.threshold) < NEAR:
            gaps.append(0.0 if row["kept"] == (adds > job.spec.threshold) else inf)
    return gaps


def _completeness(job: Job, scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps = []
    for number, row in enumerate(summary["rows"]):
        found = [_share(scores[f"{name}.predicted"][number], _answers(scores)) for name in ("circuit", "model")]
        gaps += [_gap(row["circuit"], found[0]), _gap(row["model"], found[1])]
        gaps.append(_gap(row["completeness"], abs(found[0] - found[1])))
    return gaps


def _dcm(job: Job, scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps, circuit = [], Circuit.from_dict(summary["circuit"], job.name)
    for row in summary["rows"]:
        name = f"{row['group']}.{row['desideratum']}"
        mask, tried = scores[f"{name}.mask"].tolist(), scores[f"{name}.masks"].tolist()
        accuracies = scores[f"{name}.accuracies"].tolist()
        good = [one for one, accuracy in zip(tried, accuracies, strict=True) if accuracy >= max(accuracies) - NEAR]
        heads = circuit.group(row["group"]).heads
        named = [str(head) for head, keep in zip(heads, mask, strict=True) if keep == 0]
        right = mask in good and sum(mask) == max(map(sum, good)) and named == row["selected"]
        gaps.append(0.0 if right else inf)
    return gaps


def _cmap(job: Job, scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    rows = [row for row in summary["rows"] if row["patched"] == "output"]
    predicted = scores["output.predicted"]
    return [_gap(row["accuracy"], _share(predicted[i], _answers(scores))) for i, row in enumerate(rows)]


def _knockout(job: Job, scores: Scores, summary: Mapping[str, Any]) -> list[float]:
    gaps = []
    for row in summary["rows"]:
        predicted = scores[f"{row['blind']} to {row['to']}.predicted"]
        gaps += [_gap(row["accuracy"][i], _share(one, _answers(scores))) for i, one in enumerate(predicted)]
    return gaps


COUNTS: dict[str, Callable[[Job, Scores, Mapping[str, Any]], Sequence[float]]] = {
    "path_patching": _path_patching,
    "faithfulness": _faithfulness,
    "minimality": _minimality,
    "completeness": _completeness,
    "dcm": _dcm,
    "cmap": _cmap,
    "knockout": _knockout,
}
