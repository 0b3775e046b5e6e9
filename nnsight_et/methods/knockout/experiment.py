"""Attention knockout jobs (App. A, Fig. A1, A2): accuracy when one position is blind to another from some layer up."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from nnsight_et.core.batch import Example, right_tokens
from nnsight_et.core.errors import TaskError
from nnsight_et.core.lists import to_list
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.display.measurement import no_rows
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.knockout import knockout_readouts, random_targets
from nnsight_et.manifest import Edge, Knockout
from nnsight_et.manifest.document import dotted_path
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.examples import boxes_of
from nnsight_et.measuring.predictions import answer_scores, select_examples
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, suffixes
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.knockout import audit, present
from nnsight_et.methods.knockout.summary import BlockedEdge, KnockoutSummary
from nnsight_et.planning.plan import Job

SPLIT = "evaluation"


def check(context: RunContext, job: Job[Knockout]) -> None:
    """Raise TaskError if the data cannot be made, or the model lacks a layer."""
    for choice in job.models:
        for path, text in job.spec.layer_problems(context.models.shape(choice).n_layers):
            raise TaskError(f"experiments.{job.name}.{dotted_path(path)}: {text}")
        context.data.examples(job, choice, SPLIT, 1)


def measure(context: RunContext, job: Job[Knockout]) -> Generator[Progress, None, MethodOutput[KnockoutSummary]]:
    """Every edge of attention, blocked in all layers from the first, the second, ... up, or as said; last, in none."""
    spec, choice = job.spec, job.models[0]
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    answers = right_tokens(examples)
    firsts, rows = spec.first_layers(context.models.shape(choice).n_layers), list[BlockedEdge]()
    scores = answer_scores(answers)
    measurements = [_knockout_measurement(context, job, edge, examples, firsts) for edge in spec.edges]
    yield from measure_cells(context, measurements)
    for edge, measurement in zip(spec.edges, measurements, strict=True):
        found = context.cells.values(measurement)
        right = is_right(found["predicted"], answers).double()  # [first layer, example]
        accuracy, bounds = to_list(right.mean(-1)), accuracy_intervals(right)
        rows.append(BlockedEdge(blind=edge.blind, to=edge.to, accuracy=accuracy, accuracy_interval=bounds))
        scores |= {f"{edge.blind} to {edge.to}.{key}": tensor for key, tensor in found.items()}
    layers = None if spec.layers is None else list(spec.layers)
    summary = KnockoutSummary(rows=rows, model=choice.name, layers=layers)
    return MethodOutput(scores, summary, data_digest(examples))


def _knockout_measurement(
    context: RunContext, job: Job[Knockout], edge: Edge, examples: Sequence[Example], firsts: Sequence[int]
) -> Measurement:
    """Of one edge blocked from each of the first layers: readouts, by name, [first layer, example]."""
    choice = job.models[0]
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        question = context.data.pair(choice, examples, batch).question
        if edge.to == "random":
            seeds = [f"{job.seed}/{data_digest([examples[index]])}" for index in batch]
            labels = boxes_of(job.task).label_tokens(context.models.tokenizer(choice))
            to = random_targets(question, edge.blind, job.task.all_positions, labels, seeds)
        else:
            to = question.run.positions[edge.to]
        ends = question.run.positions[edge.blind], to
        return Call(knockout_readouts, (question, ends, settings.select(firsts), settings.engine, chunks))

    step = suffixes(job, choice, f"{edge.blind} to {edge.to}", examples, [edge.blind], chunks.examples)
    random_of = job.seed if edge.to == "random" else None
    said = {} if job.spec.layers is None else {"layers": list(firsts)}
    return Measurement(step, {"knockout": [edge.blind, edge.to, random_of]} | said, measure, len(firsts))


EXPERIMENT = Experiment(
    check=check,
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
