"""What must hold of results of minimality: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import ceil, inf, nan
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Minimality
from nnsight_et.measuring.audit import NEAR, Finding, differences
from nnsight_et.measuring.context import Measured
from nnsight_et.measuring.evidence import Evidence, Groups, Heads, circuit_json, name_of, told_circuits, without
from nnsight_et.measuring.recount import interval, ratio_interval
from nnsight_et.methods.minimality.summary import MinimalitySummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, same_heads


def audit_output(evidence: Evidence[Minimality, MinimalitySummary]) -> Iterator[Finding]:
    """Group by group: the pairs that were tried, each head's K, what is left without them, and who stays."""
    circuit, kept = evidence.circuit(evidence.job.spec.circuit), Groups()
    rows, scores, measured = list[dict[str, Any]](), dict[str, Tensor](), list[Measured]()
    for name, at, heads in circuit:
        if not heads:
            kept.append((name, at, []))
            scores |= {f"{name}.pair_accuracy": torch.zeros(0, 0), f"{name}.before_after": torch.zeros(0, 2)}
            continue
        pairs, tried = evidence.step(f"{name} pairs"), evidence.step(f"{name} heads")
        numbers = [(v, w) for v in range(len(heads)) for w in range(v, len(heads))]
        fewer = [without(circuit, {name: [heads[v], heads[w]]}) for v, w in numbers]
        yield from _asked(evidence, pairs, fewer)
        accuracy = [[nan] * len(heads) for _ in heads]
        for (v, w), found in zip(numbers, to_list(evidence.right(pairs).mean(-1)), strict=True):
            accuracy[v][w] = accuracy[w][v] = found
        sets = [_stand_ins(accuracy, v, evidence.job.spec.fraction) for v in range(len(heads))]
        fewer = list[Groups]()
        for v, (gone, _) in enumerate(sets):
            removed = [heads[w] for w in gone]
            fewer += [without(circuit, {name: removed}), without(circuit, {name: [*removed, heads[v]]})]
        yield from _asked(evidence, tried, fewer)
        right = evidence.right(tried)
        group = [_row(evidence, (name, heads), v, sets[v], right[2 * v : 2 * v + 2]) for v in range(len(heads))]
        kept.append((name, at, [head for head, row in zip(heads, group, strict=True) if row["kept"]]))
        rows += group
        scores[f"{name}.pair_accuracy"] = torch.tensor(accuracy)
        scores[f"{name}.before_after"] = torch.tensor([[row["before"], row["after"]] for row in group])
        measured += [pairs, tried]
    yield from _prompts(evidence, measured)
    expected = {"circuit": circuit_json(kept), "candidate": circuit_json(circuit), "heads": rows}
    yield from differences(evidence.summary.to_dict(), expected)
    yield from differences(dict(evidence.scores), scores, "scores")


def _prompts(evidence: Evidence[Minimality, MinimalitySummary], measured: list[Measured]) -> Iterator[Finding]:
    """That all was measured on the same prompts, those of the split that prunes."""
    spec, choice = evidence.job.spec, evidence.choice
    if measured:
        examples = measured[0].measurement.step.examples
        yield from evidence.selected(examples, "pruning", spec.examples, choice, spec.only_correct)
        yield from evidence.ablation(choice, examples)
        for one in measured[1:]:
            yield from evidence.same_base(examples, one)


def _asked(
    evidence: Evidence[Minimality, MinimalitySummary], one: Measured, circuits: list[Groups]
) -> Iterator[Finding]:
    told = {"fill": evidence.fill(evidence.choice, one.measurement.step.examples), "circuits": circuits}
    yield from evidence.calls(one, "circuit_readouts", told_circuits, told)


def _stand_ins(accuracy: list[list[float]], v: int, fraction: float) -> tuple[list[int], list[int]]:
    """K of head v, from the accuracies without any one and any two; and those that make up for it as well as the last.

    The others by what is lost when v goes as well, the most first, in the group's order where it is the same; only
    those without which something is lost, and no more than the fraction of the group, rounded up.
    """
    lost = {w: accuracy[w][w] - accuracy[v][w] for w in range(len(accuracy)) if w != v}
    order, rest = list[int](), sorted(lost)
    while rest:
        most = max(lost[w] for w in rest)
        order.append(next(w for w in rest if lost[w] > most - NEAR))
        rest.remove(order[-1])
    most = ceil(Fraction(str(fraction)) * len(accuracy))
    chosen = [w for w in order[:most] if lost[w] > NEAR]
    ties = [w for w in order[most:] if len(chosen) == most and most and abs(lost[w] - lost[order[most - 1]]) < NEAR]
    return chosen, ties


def _row(
    evidence: Evidence[Minimality, MinimalitySummary],
    group: tuple[str, Heads],
    v: int,
    sets: tuple[list[int], list[int]],
    right: Tensor,
) -> dict[str, Any]:
    """A head's line, from [before and after, example]."""
    name, heads = group
    before, after = to_list(right.mean(-1))
    adds = before / after - 1 if after else inf if before else nan
    low, high = ratio_interval(right[0], right[1])
    return {
        "group": name,
        "head": name_of(heads[v]),
        "without": [name_of(heads[w]) for w in sets[0]],
        "before": before,
        "after": after,
        "contribution": adds,
        "kept": adds > evidence.job.spec.threshold - NEAR,
        "before_interval": interval(right[0]),
        "after_interval": interval(right[1]),
        "contribution_interval": [low - 1, high - 1],
        "tied": [name_of(heads[w]) for w in sets[1]],
    }


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
