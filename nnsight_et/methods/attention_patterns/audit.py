"""What must hold of results of attention patterns: of what was asked and found, and on models with a known circuit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import AttentionPatterns
from nnsight_et.measuring.audit import Finding, differences, tensor_gap
from nnsight_et.measuring.evidence import Evidence, circuit_json, name_of
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import LOOKS, Statement

ONE = 0.02  # half precision rounds a row of weights so far from 1


def audit_output(evidence: Evidence[AttentionPatterns, AttentionPatternsSummary]) -> Iterator[Finding]:
    """Position by position: all heads' mean weights, which add up to 1; and those of the circuit's own."""
    spec, choice, circuit = evidence.job.spec, evidence.choice, evidence.circuit(evidence.job.spec.circuit)
    to, scores, rows = list(evidence.job.task.all_positions), dict[str, Tensor](), list[dict[str, Any]]()
    places = sorted({at for _, at, _ in circuit})
    examples = evidence.step(places[0]).measurement.step.examples
    yield from evidence.selected(examples, "evaluation", spec.examples, choice, spec.only_correct)
    for at in places:
        one = evidence.step(at)
        yield from evidence.same_base(examples, one)
        yield from evidence.calls(one, "attention_from", lambda said: [said[1], *said[2]], [at, *to])
        weights = evidence.values(one)["weights"].double()
        whole = tensor_gap(weights.sum(-2), torch.ones_like(weights.sum(-2)))
        yield Finding("recount", max(0.0, whole - ONE), f"{at}: weights of one head")
        scores[f"{at}.weights"] = weights.sum(-1) / len(examples)
    columns = [*to, "first token", "other"]
    for name, at, heads in circuit:
        for layer, head in heads:
            said = {"group": name, "at": at, "head": name_of((layer, head))}
            rows.append(said | dict(zip(columns, to_list(scores[f"{at}.weights"][layer, head]), strict=True)))
    expected = {"rows": rows, "columns": columns, "circuit": circuit_json(circuit)}
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), scores, "scores")


def statements(known: Known, _: str, result: MethodResult[AttentionPatternsSummary]) -> Iterator[Statement]:
    """Every planted head looks where it was built to look."""
    for name, group in known.groups.items():
        rows = [row for row in result.summary.rows if row.group == name]
        least = min(row.weights[group.looks_at] for row in rows)
        yield Statement(
            f"{name} at {group.looks_at}", f"at least {LOOKS}", f"{least:.2f}", least >= LOOKS, {"least": least}
        )
