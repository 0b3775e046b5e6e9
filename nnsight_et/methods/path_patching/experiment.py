"""Path-patching jobs: stage by stage from the logits back, one cell per batch of examples."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example
from nnsight_et.core.circuit import Circuit, Component, Head, HeadGroup
from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.lists import to_list
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.statistics import LEVEL
from nnsight_et.engine.paths import StageReads
from nnsight_et.interventions.calls import Call
from nnsight_et.interventions.path_patching import Path, path_probabilities
from nnsight_et.interventions.screened_paths import screened_probabilities
from nnsight_et.manifest import Discovery, PathPatching, Stage
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.missing_scores import check_scored
from nnsight_et.measuring.own_pairs import check_foils
from nnsight_et.measuring.predictions import select_examples
from nnsight_et.measuring.race import ESTIMATED, Race, drawn_order, run_race
from nnsight_et.measuring.screened_scores import screened_scores
from nnsight_et.measuring.shared_prompts import SharedPrompts
from nnsight_et.measuring.stage_scores import Found, held_out_scores, ranking, stage_scores, tied_heads
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, suffixes
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.path_patching import audit, present
from nnsight_et.methods.path_patching.reads import stage_reads
from nnsight_et.methods.path_patching.summary import KeptHead, MeanTest, PathPatchingSummary, ScreenRecord, StageRecord
from nnsight_et.models.catalog import Shape
from nnsight_et.planning.plan import Job, digest
from nnsight_et.results.records import CircuitRecord, MlpGroupRecord

SPLIT = "discovery"
HELD_OUT_SPLIT = "evaluation"
NOUNS = {"heads": "heads", "mlps": "MLPs"}


def check(context: RunContext, job: Job[PathPatching]) -> None:
    """Raise TaskError if the data cannot be made, or a stage keeps more heads or MLPs than the model has."""
    spec, choice = job.spec, job.models[0]
    shape = context.models.shape(choice)
    for index, stage in enumerate(spec.stages):
        most = len(Path(stage.at, senders=stage.senders).reaching(shape.n_layers, shape.n_heads))
        if stage.keep > most:
            raise _too_many(job, index, stage, f"{choice.name} has {most} {NOUNS[stage.senders]}", most)
    for split in (SPLIT, HELD_OUT_SPLIT) if spec.held_out_examples else (SPLIT,):
        check_foils(job, context.data.examples(job, choice, split, 1))


def measure(
    context: RunContext, job: Job[PathPatching]
) -> Generator[Progress, None, MethodOutput[PathPatchingSummary]]:
    """Run the stages in order; each one's receivers are the best heads of the stage it patches into."""
    spec, choice = job.spec, job.models[0]
    shape = context.models.shape(choice)
    examples = yield from select_examples(context, job, choice, SPLIT, spec.examples, spec.only_correct)
    held_out = yield from _select_held_out(context, job)
    ranked: dict[str, Sequence[Component]] = {}
    scores: dict[str, Tensor] = {}
    stages: list[StageRecord] = []
    for index, stage in enumerate(spec.stages):
        receivers = tuple(ranked[stage.into][: _receivers(spec, stage.into)]) if stage.via else ()
        path = Path(stage.at, stage.via, receivers, stage.kv_heads, stage.senders)
        senders = _reaching(path, shape)
        if stage.keep > len(senders):
            raise _too_many(job, index, stage, f"{len(senders)} can reach {stage.into}", len(senders))
        if stage.screen is None:
            measurement = patched_paths(context, job, path, senders, stage.group, examples)
            yield from measure_cells(context, [measurement])
            probabilities = context.cells.values(measurement)
            check_scored(context, job, f"stages[{index}]", probabilities, examples)
            found, race = stage_scores(probabilities, senders, shape, stage.keep, job.seed, spec.metric), None
        else:
            race = yield from _race(context, job, index, path, senders, examples, ranked=ranked)
            found = screened_scores(race, senders, shape, job.seed)
            senders = [senders[number] for number in race.whole]
        order = ranking(found["score"], senders, spec.metric)
        kept = ranked[stage.group] = order[: stage.keep]
        if held_out:
            measurement = patched_paths(context, job, path, sorted(kept), f"{stage.group} held out", held_out)
            yield from measure_cells(context, [measurement])
            again = context.cells.values(measurement)
            check_scored(context, job, "held_out_examples", again, held_out)
            found |= held_out_scores(again, sorted(kept), shape, spec.metric)
        scores |= {f"{stage.group}.{name}": tensor for name, tensor in found.items()}
        ties, tied_receivers = tied_heads(found["score"], order, stage.keep, choice.dtype), list[str]()
        if stage.via:
            best = ranked[stage.into]
            tied_receivers = tied_heads(scores[f"{stage.into}.score"], best, len(receivers), choice.dtype)
        record = stage_record(stage, receivers, kept, found, spec.metric)
        screened = {"screen": _screen_record(race)} if race else {}
        stages.append(record.model_copy(update={"tied": ties, "tied_receivers": tied_receivers, **screened}))
    context.models.forget_runs()
    summary = PathPatchingSummary(
        circuit=CircuitRecord.of(assembled_circuit(spec.stages, ranked)),
        mlps=mlps(spec.stages, ranked),
        stages=stages,
        test=_test_of(spec.metric),
        examples=len(examples),
        held_out_examples=len(held_out),
        query_heads_per_kv_head=shape.n_heads // shape.n_kv_heads,
    )
    data = [data_digest(sample) for sample in (examples, held_out) if sample]
    return MethodOutput(scores, summary, data[0] if len(data) == 1 else digest(data))


def _race(
    context: RunContext,
    job: Job[PathPatching],
    index: int,
    path: Path,
    senders: Sequence[Component],
    examples: Sequence[Example],
    *,
    ranked: Mapping[str, Sequence[Component]],
) -> Generator[Progress, None, Race]:
    """The stage's race: round by round the senders that may still be kept, on more of the examples.

    ranked: of the stages before it.
    """
    stage, metric = job.spec.stages[index], job.spec.metric
    assert stage.screen is not None
    receivers = {group: found[: _receivers(job.spec, group)] for group, found in ranked.items()}
    reads = stage_reads(job.spec.stages, index, receivers, context.models.shape(job.models[0]))
    shared = _shared_prompts(context, job, examples, reads)
    drawn = {number: place for place, number in enumerate(drawn_order(len(examples), str(job.seed)))}

    def ask(some: Sequence[int], prompts: Sequence[int], name: str) -> Generator[Progress, None, Found]:
        here = [examples[number] for number in prompts]
        racing = [senders[number] for number in some]
        measurement = patched_paths(context, job, path, racing, f"{stage.group} {name}", here)
        if name in ESTIMATED and stage.has_estimates(metric) and job.engine != "reference":
            measurement = _with_estimates(measurement)
        if shared is not None:
            measurement = shared.apply_to(measurement, [drawn[number] for number in prompts], path.at)
        yield from measure_cells(context, [measurement])
        found = context.cells.values(measurement)
        check_scored(context, job, f"stages[{index}]", found, here)
        return found

    how_many = (len(senders), len(examples))
    seed = str(job.seed)
    return (yield from run_race(ask, how_many, screen=stage.screen, metric=metric, keep=stage.keep, seed=seed))


def _shared_prompts(
    context: RunContext, job: Job[PathPatching], examples: Sequence[Example], reads: tuple[StageReads, ...]
) -> SharedPrompts | None:
    """Of screened stages the prompts whose base and source runs are kept; none where the model is not in this process,
    or where what follows a prompt differs from answer to answer.
    """
    apart = context.models.on_server or context.workers is not None or job.engine == "reference"
    if apart or any(one.further for one in examples):
        return None
    chunks = context.chunk_sizes.of(job.models[0], examples)
    drawn = [examples[number] for number in drawn_order(len(examples), str(job.seed))]
    return SharedPrompts(context, drawn, reads, min(chunks.kept, len(drawn)), chunks.examples)


def _with_estimates(measurement: Measurement) -> Measurement:
    """The same, and estimates of all heads' effects beside it: {"estimate": [1, head, example]}."""

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        return replace(measurement.measure(batch, settings), function=screened_probabilities)

    return replace(measurement, cache_key=measurement.cache_key | {"estimated": True}, measure=measure)


def _screen_record(race: Race) -> ScreenRecord:
    """What a race says of itself."""
    senders, whole = len(race.prompts), race.whole
    largest = race.rests[whole, race.first :].abs().amax(-1) if race.first < len(race.order) else torch.zeros(0)
    tail = None if race.screen.tail == "any" else race.screen.tail
    louder = (largest > tail * race.loudest()[whole][: len(largest)]).sum().item() if tail else 0
    return ScreenRecord(
        miss=race.screen.miss,
        first=race.first,
        tail=tail,
        whole=len(whole),
        left=senders - len(whole),
        measured=race.prompts.double().mean().item() / len(race.order),
        estimated=int(race.estimated.sum()),
        louder=int(louder),
    )


def _select_held_out(context: RunContext, job: Job[PathPatching]) -> Generator[Progress, None, list[Example]]:
    """The examples, of another split than selects, on which the kept heads are measured again; empty if none is."""
    spec = job.spec
    if not spec.held_out_examples:
        return []
    count, only_correct = spec.held_out_examples, spec.only_correct
    return (yield from select_examples(context, job, job.models[0], HELD_OUT_SPLIT, count, only_correct))


def patched_paths(
    context: RunContext,
    job: Job[PathPatching] | Job[Discovery],
    path: Path,
    senders: Sequence[Component],
    name: str,
    examples: list[Example],
) -> Measurement:
    """What path_probabilities finds, {"base": [example], "patched": [sender, example]}."""
    choice, shape, metric = job.models[0], context.models.shape(job.models[0]), job.spec.metric
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pair = context.data.pair(choice, examples, batch, metric)
        return Call(path_probabilities, (pair, path, settings.select(senders), settings.engine, chunks))

    cache_key: dict[str, Any] = {"path": [path.at, path.via, sorted(map(str, path.receivers))]}
    if path.kv_heads == "expanded":
        cache_key["kv_heads"] = path.kv_heads
    if metric != DEFAULT_METRIC:
        cache_key["metric"] = metric
    if path.senders == "mlps":
        cache_key["mlps"] = list(map(str, senders))
    elif senders != _reaching(path, shape):
        cache_key["senders"] = list(map(str, senders))
    step = suffixes(job, choice, name, examples, [path.at], chunks.examples)
    return Measurement(step, cache_key, measure, len(senders))


def assembled_circuit(stages: Sequence[Stage], ranked: Mapping[str, Sequence[Component]]) -> Circuit:
    """The circuit of the kept heads; a head that a later stage keeps at the same position leaves the earlier group."""
    of_heads = (stage for stage in stages if stage.senders == "heads")
    return Circuit.from_stages(
        HeadGroup(stage.group, stage.at, tuple(Head(*head) for head in ranked[stage.group])) for stage in of_heads
    )


def mlps(stages: Sequence[Stage], ranked: Mapping[str, Sequence[Component]]) -> list[MlpGroupRecord]:
    """The kept MLPs, a group for each stage that keeps some."""
    of_mlps = [stage for stage in stages if stage.senders == "mlps"]
    return [MlpGroupRecord(name=one.group, at=one.at, mlps=list(map(str, ranked[one.group]))) for one in of_mlps]


def stage_record(
    stage: Stage,
    receivers: Sequence[Component],
    kept: Sequence[Component],
    found: Mapping[str, Tensor],
    metric: Metric = DEFAULT_METRIC,
) -> StageRecord:
    """A stage's part of the summary: its kept heads' or MLPs' numbers, and which of all are beyond chance; no ties."""
    tested = int(found["reach"].sum()) if METRICS[metric].statistic else 0
    names = [name for name in KeptHead.model_fields if name in found]
    heads = [
        KeptHead(
            head=str(head),
            beyond_chance=bool(found["p_holm"][head] <= LEVEL) if tested else None,
            **{name: found[name][head].item() for name in names},
        )
        for head in kept
    ]
    base = found["base"].double()
    of_metric: dict[str, Any] = (
        {f"base_{metric}": found["base_value"].double().mean().item()} if METRICS[metric].needs_foils else {}
    )
    return StageRecord(
        group=stage.group,
        into=stage.into,
        via=stage.via,
        at=stage.at,
        senders=stage.senders,
        kv_heads=stage.kv_heads,
        receivers=list(map(str, receivers)),
        kept=heads,
        tested=tested,
        beyond_chance=_at_level(found, "p_holm", kept),
        beyond_chance_bh=_at_level(found, "p_bh", kept),
        stability=found["stability"].item(),
        base_probability=base.mean().item(),
        base_probability_1_percent=base.quantile(0.01).item(),
        tied=[],
        tied_receivers=[],
        **of_metric,
    )


def _at_level(found: Mapping[str, Tensor], name: str, alike: Sequence[Component]) -> list[str]:
    """The heads, or what is `alike`, whose adjusted p-value is at most LEVEL, the most negative score first."""
    heads: list[Component] = [type(alike[0])(*place) for place in to_list((found[name] <= LEVEL).nonzero())]
    return [str(head) for head in ranking(found["score"], heads)]


def _test_of(metric: Metric) -> MeanTest | None:
    """What a stage's p-values are of; None: the metric's effect has no sign to test."""
    statistic = METRICS[metric].statistic
    if statistic is None:
        return None
    return MeanTest(statistic=statistic, alternative="below 0", null="t corrected for skew", level=LEVEL)


def _reaching(path: Path, shape: Shape) -> list[Component]:
    return path.reaching(shape.n_layers, shape.n_heads, shape.parallel)


def _receivers(spec: PathPatching, group: str) -> int | None:
    return next(stage.receivers for stage in spec.stages if stage.group == group)


def _too_many(job: Job[PathPatching], index: int, stage: Stage, found: str, most: int) -> TaskError:
    where = f"experiments.{job.name}.stages[{index}].keep"
    accept = f"1 to {most}" if most else "fewer stages, or other receivers: those kept are all in the first layer"
    return TaskError(f"{where}: {quantity(stage.keep, NOUNS[stage.senders][:-1])}, but {found}; accepted: {accept}")


EXPERIMENT = Experiment(
    check=check,
    measure=measure,
    audit=audit.audit_output,
    headline=present.headline,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=present.heads,
    paper=None,
    statements=audit.statements,
)
