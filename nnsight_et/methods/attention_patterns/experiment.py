"""Attention pattern jobs (§4.1, §5.2, Fig. 1): where the heads of a circuit look from their position, on average."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.lists import to_list
from nnsight_et.display.measurement import no_rows
from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import AttentionPatterns
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.circuits import check_data_and_circuit
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.predictions import select_examples
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, whole_prompts
from nnsight_et.methods.attention_patterns import audit, present
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary, HeadAttention
from nnsight_et.methods.base import Experiment
from nnsight_et.planning.plan import Job
from nnsight_et.results.records import CircuitRecord

SPLIT = "evaluation"


def measure(
    context: RunContext, job: Job[AttentionPatterns]
) -> Generator[Progress, None, MethodOutput[AttentionPatternsSummary]]:
    """All heads at each position of the circuit's groups; the summary has the circuit's own. Attention is eager."""
    spec, choice = job.spec, job.models[0]
    circuit = context.earlier.circuit(job)
    context.models.check_circuit(job, choice, circuit)
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    to, found = job.task.all_positions, dict[str, Tensor]()
    measurements = {at: _looks(context, job, at, examples) for at in circuit.positions}
    yield from measure_cells(context, list(measurements.values()))
    for at, measurement in measurements.items():
        found[at] = context.cells.values(measurement)["weights"].double().mean(-1)  # [layer, head, to + 2]
    columns = [*to, "first token", "other"]
    rows = [
        HeadAttention(
            group=group.name,
            at=group.at,
            head=str(head),
            **dict(zip(columns, to_list(found[group.at][head]), strict=True)),
        )
        for group in circuit.groups
        for head in group.heads
    ]
    summary = AttentionPatternsSummary(rows=rows, columns=columns, circuit=CircuitRecord.of(circuit))
    return MethodOutput({f"{at}.weights": weights for at, weights in found.items()}, summary, data_digest(examples))


def _looks(context: RunContext, job: Job[AttentionPatterns], at: str, examples: Sequence[Example]) -> Measurement:
    """Of all heads at one position: attention weights [layer, head, to + 2, example]."""
    choice, to = job.models[0], job.task.all_positions
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        return Call(attention_from, (context.data.pair(choice, examples, batch).base, at, to, settings.engine))

    return Measurement(whole_prompts(job, choice, at, examples, chunks.examples), {"attention": [at, to]}, measure)


EXPERIMENT = Experiment(
    check=check_data_and_circuit,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=no_rows,
    heads=present.heads,
    paper=None,
    statements=audit.statements,
)
