"""Faithfulness jobs: per model its accuracy, the circuit's, and random circuits' (§4.2-4.3, Table 1)."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from nnsight_et.core.batch import right_tokens
from nnsight_et.core.metrics import accuracy, faithfulness, is_right
from nnsight_et.core.statistics import accuracy_intervals, random_circuit_p_value, ratio_interval
from nnsight_et.display.measurement import no_rows
from nnsight_et.interventions.ablation import random_circuits
from nnsight_et.manifest import Faithfulness
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.circuits import check_data_and_circuit, circuits_alone, set_up_ablation
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.predictions import answer_scores, plain_model, select_examples
from nnsight_et.measuring.steps import data_digest
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.faithfulness import audit, present
from nnsight_et.methods.faithfulness.summary import FaithfulnessRow, FaithfulnessSummary
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.records import CircuitRecord

SPLIT = "evaluation"


def measure(
    context: RunContext, job: Job[Faithfulness]
) -> Generator[Progress, None, MethodOutput[FaithfulnessSummary]]:
    """Measure model after model; each sees the same prompts, circuits and random circuits."""
    spec = job.spec
    circuit = context.earlier.circuit(job, empty=True)
    rows, scores, digests = list[FaithfulnessRow](), dict[str, Tensor](), list[str]()
    for choice in job.models:
        shape = context.models.check_circuit(job, choice, circuit)
        examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
        circuits = [circuit, *random_circuits(circuit, shape.n_layers, shape.n_heads, spec.random_circuits, job.seed)]
        setup = set_up_ablation(context, job, choice, examples, spec.ablation, spec.ablation_examples)
        measurements = [
            plain_model(context, job, choice, examples, f"{choice.name} plain"),
            circuits_alone(setup, circuits, f"{choice.name} circuits"),
        ]
        yield from measure_cells(context, measurements)
        whole, alone = (context.cells.values(one) for one in measurements)
        answers = right_tokens(examples)
        rows.append(_row(choice.name, whole["predicted"], alone["predicted"], answers))
        scores |= {f"{choice.name}.model.{name}": tensor for name, tensor in whole.items()}
        scores |= {f"{choice.name}.circuit.{name}": tensor for name, tensor in alone.items()}
        scores |= {f"{choice.name}.{name}": tensor for name, tensor in answer_scores(answers).items()}
        digests.append(data_digest(examples))
    return MethodOutput(scores, FaithfulnessSummary(rows=rows, circuit=CircuitRecord.of(circuit)), digest(digests))


def _row(name: str, whole: Tensor, alone: Tensor, answers: Tensor) -> FaithfulnessRow:
    """A model's line of Table 1 with its 95% intervals."""
    right, right_whole = is_right(alone, answers), is_right(whole, answers)  # [circuit, example] and [example]
    others = right[1:].double().mean(-1)
    full, circuit = accuracy(whole, answers), accuracy(alone[0], answers)
    return FaithfulnessRow(
        model=name,
        full=full,
        full_interval=accuracy_intervals(right_whole),
        circuit=circuit,
        circuit_interval=accuracy_intervals(right[0]),
        random_mean=others.mean().item() if len(others) else float("nan"),
        random_std=others.std(correction=0).item() if len(others) else float("nan"),
        random_interval=accuracy_intervals(right[1:].double().mean(0)),
        random_circuits=len(others),
        random_p=random_circuit_p_value(circuit, others),
        faithfulness=faithfulness(circuit, full),
        faithfulness_interval=[*ratio_interval(right[0], right_whole)],
        differing=int((right[0] != right_whole).sum()),
        examples=len(answers),
    )


EXPERIMENT = Experiment(
    check=check_data_and_circuit,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=no_rows,
    paper=present.paper_numbers,
    statements=audit.statements,
)
