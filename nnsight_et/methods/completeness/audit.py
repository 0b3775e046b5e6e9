"""What must hold of results of completeness: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from torch import Tensor

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Completeness
from nnsight_et.measuring.audit import Finding, differences
from nnsight_et.measuring.evidence import Evidence, Groups, circuit_json, told_circuits, without
from nnsight_et.measuring.recount import difference_interval, interval, mean_and_std
from nnsight_et.methods.completeness.summary import CompletenessSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import CLOSE, LOST, Statement, near


def audit_output(evidence: Evidence[Completeness, CompletenessSummary]) -> Iterator[Finding]:
    """The sets of heads that circuit and model lost, and what both then answer."""
    spec, choice = evidence.job.spec, evidence.choice
    circuit = evidence.circuit(spec.circuit)
    alone, model = evidence.step("circuit"), evidence.step("model")
    examples = alone.measurement.step.examples
    yield from evidence.selected(examples, "evaluation", spec.examples, choice, spec.only_correct)
    yield from evidence.ablation(choice, examples)
    yield from evidence.same_base(examples, model)
    halves = _halves(circuit, spec.draws, evidence.job.seed)
    sets, fill = [*halves, *([group] for group in circuit)], evidence.fill(choice, examples)
    left = [without(circuit, {name: heads for name, _, heads in one}) for one in sets]
    yield from evidence.calls(alone, "circuit_readouts", told_circuits, {"fill": fill, "circuits": left})
    yield from evidence.calls(model, "remainder_readouts", told_circuits, {"fill": fill, "circuits": sets})
    names = [f"random {number}" for number in range(1, spec.draws + 1)] + [name for name, _, _ in circuit]
    right = [evidence.right(one) for one in (alone, model)]
    rows = [
        _row(name, sum(len(heads) for _, _, heads in one), [side[number] for side in right])
        for number, (name, one) in enumerate(zip(names, sets, strict=True))
    ]
    drawn = _over_halves([side[: spec.draws] for side in right]) if spec.draws else {}
    expected = {"rows": rows, "random": drawn, "circuit": circuit_json(circuit)}
    yield from differences(evidence.summary.to_dict(), expected)
    scores = {f"circuit.{key}": tensor for key, tensor in evidence.values(alone).items()}
    scores |= {f"model.{key}": tensor for key, tensor in evidence.values(model).items()}
    yield from differences(dict(evidence.scores), scores | evidence.answers(examples), "scores")


def _halves(circuit: Groups, count: int, seed: int) -> list[Groups]:
    """The random sets of a seed: each head with probability 1/2, none of them empty."""
    draw, halves = Random(f"{seed}/completeness"), list[Groups]()
    while len(halves) < count:
        half = [(name, at, [head for head in heads if draw.random() < 0.5]) for name, at, heads in circuit]
        if any(heads for _, _, heads in half):
            halves.append(half)
    return halves


def _row(name: str, heads: int, right: Sequence[Tensor]) -> dict[str, Any]:
    """A set's numbers, from [example] each of the circuit and of the model."""
    circuit, model = (side.mean().item() for side in right)
    low, high = difference_interval(right[1], right[0])
    return {
        "removed": name,
        "heads": heads,
        "circuit": circuit,
        "circuit_interval": interval(right[0]),
        "model": model,
        "model_interval": interval(right[1]),
        "completeness": max(circuit, model) - min(circuit, model),
        "differing": int((right[0] != right[1]).sum()),
        "completeness_interval": [0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))],
    }


def _over_halves(right: Sequence[Tensor]) -> dict[str, Any]:
    """Means and standard deviations over sets, from [set, example] each of the circuit and of the model."""
    each = [to_list(side.mean(-1)) for side in right]
    apart = [max(one, other) - min(one, other) for one, other in zip(*each, strict=True)]
    said = dict[str, Any]()
    for name, values in (("circuit", each[0]), ("model", each[1]), ("completeness", apart)):
        said[name] = dict(zip(("mean", "std"), mean_and_std(values), strict=True))
    for name, side in zip(("circuit", "model"), right, strict=True):
        said[name]["mean_interval"] = interval(side.mean(0))
    return said


def statements(known: Known, experiment: str, result: MethodResult[CompletenessSummary]) -> Iterator[Statement]:
    """Circuit and model lose alike; without a stand-in that the circuit lacks, the circuit alone loses."""
    rows = {row.removed: row for row in result.summary.rows}
    lacking = {"incomplete": known.circuit.groups[0].name}.get(experiment)
    title = f"lacking {known.circuit.groups[0].heads[-1]}" if lacking else "circuit"
    for name, group in known.groups.items():
        if name in known.backed_up:
            continue  # how far a backup acts beside the mean of what it stands in for is not stated
        row = rows[name]
        yield near(f"{title} without {name}: difference", float(name == lacking), row.completeness)
        left = 1.0 if name == lacking or not group.missed else 0.0
        yield near(f"model without {name}", left, row.model, LOST if not left else CLOSE)
    if drawn := result.summary.halves:
        yield near(f"{title} without random halves: difference", 0.0, drawn.completeness.mean)
