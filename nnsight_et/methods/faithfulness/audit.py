"""What must hold of results of faithfulness: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import Any

from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Faithfulness
from nnsight_et.measuring.audit import NEAR, Finding, differences
from nnsight_et.measuring.evidence import Evidence, Groups, circuit_json, random_groups, told_circuits
from nnsight_et.measuring.recount import interval, mean_and_std, ratio_interval
from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
from nnsight_et.planning.plan import ModelChoice
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, near


def audit_output(evidence: Evidence[Faithfulness, FaithfulnessSummary]) -> Iterator[Finding]:
    """Model by model: its prompts, the circuit and the random ones, and what they answer."""
    job, rows, scores = evidence.job, list[dict[str, Any]](), dict[str, Any]()
    circuit = evidence.circuit(job.spec.circuit)
    for choice in job.models:
        yield from _model(evidence, choice, circuit, rows)
        plain, alone = (evidence.step(f"{choice.name} {what}") for what in ("plain", "circuits"))
        scores |= {f"{choice.name}.model.{key}": tensor for key, tensor in evidence.values(plain).items()}
        scores |= {f"{choice.name}.circuit.{key}": tensor for key, tensor in evidence.values(alone).items()}
        scores |= evidence.answers(plain.measurement.step.examples, f"{choice.name}.")
    yield from differences(evidence.summary.to_dict(), {"rows": rows, "circuit": circuit_json(circuit)})
    yield from differences(dict(evidence.scores), scores, "scores")


def _model(
    evidence: Evidence[Faithfulness, FaithfulnessSummary],
    choice: ModelChoice,
    circuit: Groups,
    rows: list[dict[str, Any]],
) -> Iterator[Finding]:
    spec, shape, seed = evidence.job.spec, evidence.context.models.shape(choice), evidence.job.seed
    circuits = [
        circuit,
        *random_groups(circuit, shape.n_layers, shape.n_heads, spec.random_circuits, seed),
    ]
    plain, alone = (evidence.step(f"{choice.name} {what}") for what in ("plain", "circuits"))
    examples = plain.measurement.step.examples
    yield from evidence.selected(examples, "evaluation", spec.examples, choice, spec.only_correct)
    yield from evidence.ablation(choice, alone.measurement.step.examples)
    yield from evidence.same_base(examples, alone)
    yield from evidence.calls(plain, "model_readouts", lambda _: None, None, choice)
    told = {"fill": evidence.fill(choice, examples), "circuits": circuits}
    yield from evidence.calls(alone, "circuit_readouts", told_circuits, told, choice)
    whole, right = evidence.right(plain), evidence.right(alone)
    each = to_list(right.mean(-1))
    mean, std = mean_and_std(each[1:])
    better = sum(other >= each[0] - NEAR for other in each[1:])
    full = whole.mean().item()
    rows.append({
        "model": choice.name,
        "full": full,
        "full_interval": interval(whole),
        "circuit": each[0],
        "circuit_interval": interval(right[0]),
        "random_mean": mean,
        "random_std": std,
        "random_interval": interval(right[1:].mean(0)),
        "random_circuits": spec.random_circuits,
        "random_p": (1 + better) / (1 + spec.random_circuits) if spec.random_circuits else nan,
        "faithfulness": each[0] / full if full else nan,
        "faithfulness_interval": ratio_interval(right[0], whole),
        "differing": int((right[0] != whole).sum()),
        "examples": len(examples),
    })  # fmt: skip


def statements(_: Known, __: str, result: MethodResult[FaithfulnessSummary]) -> Iterator[Statement]:
    """The model answers every prompt, and so does its circuit alone."""
    (row,) = result.summary.rows
    yield near("full model", 1.0, row.full)
    yield near("circuit alone", 1.0, row.circuit)
