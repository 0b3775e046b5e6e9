"""Attention pattern jobs (§4.1, §5.2, Fig. 1): where the heads of a circuit look from their position, on average."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from nnsight_et.core.batch import Example
from nnsight_et.interventions.attention_patterns import attention_from
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import AttentionPatterns
from nnsight_et.measuring.cells import Batch, Measurement, data_digest, filled, whole_prompts
from nnsight_et.measuring.correct import chosen_examples
from nnsight_et.measuring.how import How
from nnsight_et.measuring.work import Outcome, Progress, Work
from nnsight_et.planning.plan import Job

SPLIT = "evaluation"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit the model."""
    work.check_circuit(job, job.models[0])
    work.examples(job, job.models[0], SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """All heads at each position of the circuit's groups; the summary has the circuit's own. Attention is eager."""
    spec, choice = job.spec, job.models[0]
    assert isinstance(spec, AttentionPatterns)
    circuit = work.circuit(job)
    work.check_circuit(job, choice, circuit)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    to, found = job.task.all_positions, {}
    measurements = {at: _looks(work, job, at, examples) for at in circuit.positions}
    yield from filled(work, list(measurements.values()))
    for at, measurement in measurements.items():
        found[at] = measurement.values(work)["weights"].double().mean(-1)  # [layer, head, to + 2]
    columns = (*to, "first token", "other")
    rows = [
        {"group": group.name, "at": group.at, "head": str(head)}
        | dict(zip(columns, found[group.at][head].tolist(), strict=True))
        for group in circuit.groups
        for head in group.heads
    ]
    summary = {"rows": rows, "columns": columns, "circuit": circuit.to_dict()}
    return Outcome({f"{at}.weights": weights for at, weights in found.items()}, summary, data_digest(examples))


def _looks(work: Work, job: Job, at: str, examples: Sequence[Example]) -> Measurement:
    """Of all heads at one position: attention weights [layer, head, to + 2, example]."""
    choice, to = job.models[0], job.task.all_positions
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))

    def measure(batch: Batch, how: How) -> Call:
        return Call(attention_from, (work.pair(choice, examples, batch).base, at, to, how.engine))

    return Measurement(whole_prompts(job, choice, at, examples, chunks.examples), {"attention": [at, to]}, measure)
