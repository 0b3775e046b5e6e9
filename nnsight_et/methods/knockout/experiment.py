"""Attention knockout jobs (App. A, Fig. A1, A2): accuracy when one position is blind to another from some layer up."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import intervals
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.knockout import knockout_readouts, random_targets
from nnsight_et.manifest import Edge, Knockout
from nnsight_et.measuring.cells import Batch, Measurement, data_digest, filled, suffixes
from nnsight_et.measuring.correct import answer_scores, chosen_examples
from nnsight_et.measuring.how import How
from nnsight_et.measuring.tasks import boxes_of
from nnsight_et.measuring.work import Outcome, Progress, Work
from nnsight_et.models.load import tokenizer_of
from nnsight_et.planning.plan import Job

SPLIT = "evaluation"


def check(work: Work, job: Job) -> None:
    """Raise TaskError if the data cannot be made."""
    for choice in job.models:
        work.shape(choice)
        work.examples(job, choice, SPLIT, 1)


def measure(work: Work, job: Job) -> Generator[Progress, None, Outcome]:
    """Every edge of attention, blocked in all layers from the first, the second, ... up; last, in none."""
    spec, choice = job.spec, job.models[0]
    assert isinstance(spec, Knockout)
    examples = yield from chosen_examples(work, job, choice, SPLIT, spec.examples, spec.only_correct)
    answers = right_tokens(examples)
    firsts, rows = range(work.shape(choice).n_layers + 1), list[dict[str, Any]]()
    scores = answer_scores(answers)
    measurements = [_blocked(work, job, edge, examples, firsts) for edge in spec.edges]
    yield from filled(work, measurements)
    for edge, measurement in zip(spec.edges, measurements, strict=True):
        found = measurement.values(work)
        right = is_right(found["predicted"], answers).double()  # [first layer, example]
        of_layers = {"accuracy": right.mean(-1).tolist(), "accuracy_interval": intervals(right, job.seed)}
        rows.append({"blind": edge.blind, "to": edge.to} | of_layers)
        scores |= {f"{edge.blind} to {edge.to}.{key}": tensor for key, tensor in found.items()}
    return Outcome(scores, {"rows": rows, "model": choice.name}, data_digest(examples))


def _blocked(work: Work, job: Job, edge: Edge, examples: Sequence[Example], firsts: Sequence[int]) -> Measurement:
    """Of one edge blocked from each of the first layers: readouts, by name, [first layer, example]."""
    choice = job.models[0]
    chunks = work.chunks(job, choice, max(len(example.base.tokens) for example in examples))

    def measure(batch: Batch, how: How) -> Call:
        question = work.pair(choice, examples, batch).question
        if edge.to == "random":
            seeds = [f"{job.seed}/{data_digest([examples[index]])}" for index in batch]
            labels = boxes_of(job.task).label_tokens(tokenizer_of(work.files(choice)))
            to = random_targets(question, edge.blind, job.task.all_positions, labels, seeds)
        else:
            to = question.run.positions[edge.to]
        ends = question.run.positions[edge.blind], to
        return Call(knockout_readouts, (question, ends, how.of(firsts), how.engine, chunks))

    step = suffixes(job, choice, f"{edge.blind} to {edge.to}", examples, [edge.blind], chunks.examples)
    random_of = job.seed if edge.to == "random" else None
    return Measurement(step, {"knockout": [edge.blind, edge.to, random_of]}, measure, len(firsts))
