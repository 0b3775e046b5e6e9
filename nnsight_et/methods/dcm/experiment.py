"""DCM jobs (§5.1-5.2, App. H): per group and desideratum, the heads whose patching gives the target; one cell each."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence

from torch import Tensor

from nnsight_et.core.batch import Example, Question, right_tokens
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.errors import NothingFound, TaskError
from nnsight_et.core.lists import to_list
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.interventions.activation_patching import patched_readouts_by_source
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import DCM
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.earlier import found_none
from nnsight_et.measuring.mask_training import gradient_of, train_masks
from nnsight_et.measuring.predictions import answer_scores
from nnsight_et.measuring.roles import SelectedHeads
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, suffixes
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.dcm import audit, present
from nnsight_et.methods.dcm.reasons import Training, reasons, tied_sets
from nnsight_et.methods.dcm.summary import DCMSummary, GroupMask
from nnsight_et.planning.plan import Job, ModelChoice, digest
from nnsight_et.results.headers import method_of
from nnsight_et.results.records import CircuitRecord

TRAIN, VALIDATION, TEST = "mask_training", "mask_validation", "mask_test"


def check(context: RunContext, job: Job[DCM]) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit the model."""
    spec, choice = job.spec, job.models[0]
    context.models.check_circuit(job, choice)
    for name in spec.desiderata:
        context.data.swapped_pairs(job, choice, name, split=TRAIN, count=1)


def measure(context: RunContext, job: Job[DCM]) -> Generator[Progress, None, MethodOutput[DCMSummary]]:
    """Train a mask for every group and desideratum, and try the selected heads on fresh examples."""
    spec, choice = job.spec, job.models[0]
    circuit = context.earlier.circuit(job)
    context.models.check_circuit(job, choice, circuit)
    scores, digests = dict[str, Tensor](), list[str]()
    groups = [group for group in circuit.groups if group.heads]
    splits = ((spec.training_examples, TRAIN), (spec.validation_examples, VALIDATION), (spec.test_examples, TEST))
    data = {
        name: [context.data.swapped_pairs(job, choice, name, split=split, count=count) for count, split in splits]
        for name in spec.desiderata
    }
    drawn, sets = {name: some[2] for name, some in data.items()}, dict[str, list[Circuit]]()
    found = dict[str, list[dict[str, Tensor]]]()
    for name, masks, reused in train_masks(context, job, groups, {name: some[:2] for name, some in data.items()}):
        digests += [data_digest(examples) for examples in data[name]]
        yield context.progress(job, f"{name} masks", len(groups), len(groups), reused)
        for group, one in zip(groups, masks, strict=True):
            scores |= {f"{group.name}.{name}.{key}": tensor for key, tensor in one.items() if key != "autograd"}
        found[name] = masks
        sets[name] = [selected(group, one["mask"]) for group, one in zip(groups, masks, strict=True)]
    whole = {name: [Circuit((group,)) for group in groups] for name in data}
    validation = {name: some[1] for name, some in data.items()}
    test = patching_measurement(context, job, choice, sets, drawn, "test")
    possible = patching_measurement(context, job, choice, whole, validation, "ceiling")
    yield from measure_cells(context, [test, possible])
    rows, ceilings = list[GroupMask](), of_each(context.cells.values(possible), whole)
    for name, readouts in of_each(context.cells.values(test), sets).items():
        answers, predicted = right_tokens(validation[name]), ceilings[name]["predicted"]
        scores |= {f"{name}.{key}": tensor for key, tensor in answer_scores(answers).items()}
        scores |= {f"{name}.floor.predicted": predicted[-1]}
        scores |= {f"{group.name}.{name}.ceiling.predicted": predicted[i] for i, group in enumerate(groups)}
        right = is_right(readouts["predicted"], right_tokens(drawn[name])).double()  # [group + 1, example]
        rows += _rows(job, name, groups, found[name], right, is_right(predicted, answers).double())
    return MethodOutput(scores, DCMSummary(rows=rows, circuit=CircuitRecord.of(circuit)), digest(digests))


def selected(group: HeadGroup, mask: Tensor) -> Circuit:
    """The group's heads whose mask is 0, as a circuit of their own."""
    heads = tuple(head for head, keep in zip(group.heads, to_list(mask), strict=True) if keep == 0)
    return Circuit((HeadGroup(group.name, group.at, heads),))


def patching_measurement(
    context: RunContext,
    job: Job,
    choice: ModelChoice,
    sets: Mapping[str, Sequence[Circuit]],
    drawn: Mapping[str, Sequence[Example]],
    name: str,
) -> Measurement:
    """Of the model when each set's heads are patched, and when none is: readouts, by name, [set + 1, example].

    By desideratum, one after the other: their examples have the same base prompts, which run once.
    """
    every = [(number, heads) for number, some in enumerate(drawn) for heads in (*sets[some], Circuit(()))]
    examples, *others = drawn.values()
    if any([one.base for one in examples] != [one.base for one in other] for other in others):
        found = f"the desiderata {', '.join(drawn)} have other base prompts in {name}"
        raise TaskError(f"experiments.{job.name}: {found}; accepted: the same ones, in the same order")
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pairs = [context.data.pair(choice, some, batch) for some in drawn.values()]
        sources = [Question(pair.source, pair.answer) for pair in pairs]
        return Call(
            patched_readouts_by_source, (pairs[0].base, sources, settings.select(every), settings.engine, chunks)
        )

    positions = [position for _, heads in every for position in heads.positions]
    step = suffixes(job, choice, name, examples, positions, chunks.examples)
    what = {"patched": [[number, heads.to_dict()] for number, heads in every]}
    what |= {"sources": [data_digest(some) for some in others]}
    return Measurement(step, what, measure, len(every), sources=tuple(drawn.values()))


def of_each(values: Mapping[str, Tensor], sets: Mapping[str, Sequence[Circuit]]) -> dict[str, dict[str, Tensor]]:
    """What `patched` found, by desideratum: readouts, by name, [set + 1, example]."""
    sizes = [len(some) + 1 for some in sets.values()]
    parts = {name: tensor.split_with_sizes(sizes) for name, tensor in values.items()}
    return {one: {name: found[i] for name, found in parts.items()} for i, one in enumerate(sets)}


def _rows(
    job: Job[DCM],
    name: str,
    groups: Sequence[HeadGroup],
    found: Sequence[Mapping[str, Tensor]],
    right: Tensor,
    possible: Tensor,
) -> Iterator[GroupMask]:
    """A row per group, from its training, from right [group + 1, test example], the last with nothing patched, and
    from possible [group + 1, validation example], the same with all heads of each group.
    """
    tested, validated = (
        list(zip(to_list(one.mean(-1)), accuracy_intervals(one), strict=True)) for one in (right, possible)
    )
    for i, (group, masks) in enumerate(zip(groups, found, strict=True)):
        names = [str(head) for head in group.heads]
        training = Training(job.spec, names, masks, possible[-1], possible[i], right[-1], right[i])
        (accuracy, interval), (nothing, nothing_interval) = tested[i], tested[-1]
        (ceiling, ceiling_interval), (floor, floor_interval) = validated[i], validated[-1]
        yield GroupMask(
            group=group.name,
            desideratum=name,
            selected=[str(head) for head in selected(group, masks["mask"]).groups[0].heads],
            heads=len(group.heads),
            tied=tied_sets(names, masks),
            gradient=gradient_of(masks),
            accuracy=accuracy,
            accuracy_interval=interval,
            do_nothing=nothing,
            do_nothing_interval=nothing_interval,
            validated=training.best,
            floor=floor,
            floor_interval=floor_interval,
            ceiling=ceiling,
            ceiling_interval=ceiling_interval,
            why=reasons(training),
        )


def selected_heads(context: RunContext, name: str, desiderata: Sequence[str] = ()) -> SelectedHeads:
    """The selections called `name`: shipped ones, or those of an experiment; of one that finds a circuit whole groups.

    desiderata: what whole groups are for. NothingFound if these have no heads.
    """
    if is_shipped(name):
        return SelectedHeads.from_shipped(name.partition("/")[2])
    result = context.earlier.results[name]
    if method_of(result.header) != "dcm":
        circuit = context.earlier.found_circuit(name)
        if not circuit.size:
            raise NothingFound(found_none(name))
        return SelectedHeads.whole_groups(circuit, desiderata)
    summary = result.read(DCMSummary).summary
    found = dict[str, dict[str, tuple[Head, ...]]]()
    for row in summary.rows:
        found.setdefault(row.group, {})[row.desideratum] = tuple(map(Head.parse, row.selected))
    return SelectedHeads(summary.circuit.to_circuit(), found)


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
