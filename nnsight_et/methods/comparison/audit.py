"""What must hold of comparisons: of the circuits they are of, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import nan
from typing import Any

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Comparison
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.audit import Finding, differences
from nnsight_et.measuring.evidence import Evidence, Groups, circuit_json, name_of, shipped
from nnsight_et.methods.comparison.summary import ComparisonSummary
from nnsight_et.results.store import MethodResult, read_result
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, fewer, near


def audit_output(evidence: Evidence[Comparison, ComparisonSummary]) -> Iterator[Finding]:
    """The two circuits as they are written, their groups counted, and all heads by score."""
    spec = evidence.job.spec
    first, second = (evidence.circuit(name) for name in spec.circuits)
    rows = list[dict[str, Any]]()
    mine, other = ({name: set(heads) for name, _, heads in one} for one in (first, second))
    for name in dict.fromkeys([*mine, *other]):
        one, two = mine.get(name, set()), other.get(name, set())
        rows.append(_row(name, len(one), len(two), sum(head in two for head in one)))
    sizes = [sum(len(heads) for _, _, heads in one) for one in (first, second)]
    rows.append(_row("total", sizes[0], sizes[1], sum(row["shared"] for row in rows)))
    expected = {"rows": rows, "first": circuit_json(first), "second": circuit_json(second)}
    if spec.scores is not None:
        expected["impact"] = _impact(first, second, _scores(evidence, spec.scores))
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), {}, "scores")


def _row(name: str, first: int, second: int, shared: int) -> dict[str, Any]:
    ratios = {"precision": shared / first if first else nan, "recall": shared / second if second else nan}
    return {"group": name, "first": first, "second": second, "shared": shared} | ratios


def _scores(evidence: Evidence[Comparison, ComparisonSummary], name: str) -> Mapping[str, Any]:
    """Group -> scores [layer][head], as they are stored."""
    if is_shipped(name):
        return shipped(name.partition("/")[2], "scores")
    folder = evidence.context.folder / name
    found = read_result(folder) if folder.exists() else evidence.context.earlier.results[name]
    ends = {key.removesuffix(".score"): to_list(value) for key, value in found.scores.items() if key.endswith(".score")}
    return ends


def _impact(first: Groups, second: Groups, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every head of either with its largest |score|, the largest first."""
    members = [{head for _, _, heads in one for head in heads} for one in (first, second)]
    largest = dict[tuple[int, int], float]()
    for name, _, heads in (*first, *second):
        for layer, index in heads:
            largest[layer, index] = max(largest.get((layer, index), 0.0), abs(float(scores[name][layer][index])))
    return [
        {
            "head": name_of(head),
            "score": largest[head],
            "in_pretrained": head in members[0],
            "in_finetuned": head in members[1],
        }
        for head in sorted(sorted(largest), key=lambda head: -largest[head])
    ]


def statements(known: Known, _: str, result: MethodResult[ComparisonSummary]) -> Iterator[Statement]:
    """The overlap of the circuit with the one that lacks a head."""
    rows = {row.group: row for row in result.summary.rows}
    for whole, part in zip(known.circuit.groups, fewer(known.circuit).groups, strict=True):
        row = rows[whole.name]
        yield near(f"{whole.name}: precision", len(part.heads) / len(whole.heads), row.precision, 0)
        yield near(f"{whole.name}: recall", 1.0, row.recall, 0)
