"""DCM jobs (§5.1-5.2, App. H): per group and desideratum, the heads whose patching gives the target; one cell each."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from torch import Tensor

from nnsight_et.core.batch import Example, Question, right_tokens
from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.core.metrics import is_right
from nnsight_et.core.statistics import intervals
from nnsight_et.interventions.activation_patching import patched_from_each
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest import DCM
from nnsight_et.measuring.cells import measure_cells
from nnsight_et.measuring.context import MethodOutput, Progress, RunContext
from nnsight_et.measuring.mask_training import gradient_of, trained
from nnsight_et.measuring.steps import Batch, EvalSettings, Measurement, data_digest, suffixes
from nnsight_et.methods.base import Experiment
from nnsight_et.methods.dcm import audit, present
from nnsight_et.planning.plan import Job, ModelChoice, digest

TRAIN, VALIDATION, TEST = "mask_training", "mask_validation", "mask_test"


def check(context: RunContext, job: Job[DCM]) -> None:
    """Raise TaskError if the data cannot be made, or a circuit from a file does not fit the model."""
    spec, choice = job.spec, job.models[0]
    context.models.check_circuit(job, choice)
    for name in spec.desiderata:
        context.data.swapped_pairs(job, choice, name, split=TRAIN, count=1)


def measure(context: RunContext, job: Job[DCM]) -> Generator[Progress, None, MethodOutput]:
    """Train a mask for every group and desideratum, and try the selected heads on fresh examples."""
    spec, choice = job.spec, job.models[0]
    circuit = context.earlier.circuit(job)
    context.models.check_circuit(job, choice, circuit)
    rows, scores, digests = [], {}, []
    groups = [group for group in circuit.groups if group.heads]
    splits = ((spec.training_examples, TRAIN), (spec.validation_examples, VALIDATION), (spec.test_examples, TEST))
    data = {
        name: [context.data.swapped_pairs(job, choice, name, split=split, count=count) for count, split in splits]
        for name in spec.desiderata
    }
    drawn, sets = {name: some[2] for name, some in data.items()}, dict[str, list[Circuit]]()
    for name, masks, reused in trained(context, job, groups, {name: some[:2] for name, some in data.items()}):
        digests += [data_digest(examples) for examples in data[name]]
        yield context.progress(job, f"{name} masks", len(groups), len(groups), reused)
        for group, found in zip(groups, masks, strict=True):
            scores |= {f"{group.name}.{name}.{key}": tensor for key, tensor in found.items() if key != "autograd"}
        sets[name] = [selected(group, found["mask"]) for group, found in zip(groups, masks, strict=True)]
        ties = [
            {"tied": tied(group, found), "gradient": gradient_of(found)}
            for group, found in zip(groups, masks, strict=True)
        ]
        rows += _rows(name, groups, sets[name], ties)
    test = patched(context, job, choice, sets, drawn, "test")
    yield from measure_cells(context, [test])
    for name, readouts in of_each(context.cells.values(test), sets).items():
        shares = _accuracies(readouts, drawn[name], job.seed)
        own = [row for row in rows if row["desideratum"] == name]
        for row, share in zip(own, shares, strict=True):
            row |= share
    return MethodOutput(scores, {"rows": rows, "circuit": circuit.to_dict()}, digest(digests))


def selected(group: HeadGroup, mask: Tensor) -> Circuit:
    """The group's heads whose mask is 0, as a circuit of their own."""
    heads = tuple(head for head, keep in zip(group.heads, mask.tolist(), strict=True) if keep == 0)
    return Circuit((HeadGroup(group.name, group.at, heads),))


def tied(group: HeadGroup, found: Mapping[str, Tensor]) -> list[list[str]]:
    """The other sets of as many of the group's heads that did just as well in validation, the earliest first."""
    best = found["mask"].tolist()
    tried = list(zip(found["masks"].tolist(), found["accuracies"].tolist(), strict=True))
    reached = max((share for mask, share in tried if mask == best), default=None)
    others = [mask for mask, share in tried if share == reached]
    alike = [tuple(mask) for mask in others if mask != best and sum(mask) == sum(best)]
    return [
        [str(head) for head, keep in zip(group.heads, mask, strict=True) if keep == 0] for mask in dict.fromkeys(alike)
    ]


def patched(
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
    assert all([one.base for one in examples] == [one.base for one in other] for other in others)
    chunks = context.chunk_sizes.of(choice, examples)

    def measure(batch: Batch, settings: EvalSettings) -> Call:
        pairs = [context.data.pair(choice, some, batch) for some in drawn.values()]
        sources = [Question(pair.source, pair.answer) for pair in pairs]
        return Call(patched_from_each, (pairs[0].base, sources, settings.select(every), settings.engine, chunks))

    positions = [position for _, heads in every for position in heads.positions]
    step = suffixes(job, choice, name, examples, positions, chunks.examples)
    what = {"patched": [[number, heads.to_dict()] for number, heads in every]}
    what |= {"sources": [data_digest(some) for some in others]}
    return Measurement(step, what, measure, len(every))


def of_each(values: Mapping[str, Tensor], sets: Mapping[str, Sequence[Circuit]]) -> dict[str, dict[str, Tensor]]:
    """What `patched` found, by desideratum: readouts, by name, [set + 1, example]."""
    sizes = [len(some) + 1 for some in sets.values()]
    parts = {name: tensor.split(sizes) for name, tensor in values.items()}
    return {one: {name: found[i] for name, found in parts.items()} for i, one in enumerate(sets)}


def _rows(
    name: str, groups: list[HeadGroup], chosen: list[Circuit], more: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What was selected from each group."""
    return [
        {
            "group": group.name,
            "desideratum": name,
            "selected": [str(head) for head in heads_of(heads)],
            "heads": len(group.heads),
        }
        | rest
        for group, heads, rest in zip(groups, chosen, more, strict=True)
    ]


def _accuracies(readouts: dict[str, Tensor], examples: Sequence[Example], seed: int) -> list[dict[str, Any]]:
    """Per set of heads how often it gives the target, and how often doing nothing does."""
    right = is_right(readouts["predicted"], right_tokens(examples)).double()
    accuracy, bounds = right.mean(-1).tolist(), intervals(right, seed)
    nothing = {"do_nothing": accuracy[-1], "do_nothing_interval": bounds[-1]}
    return [
        {"accuracy": accuracy[number], "accuracy_interval": bounds[number]} | nothing
        for number in range(len(accuracy) - 1)
    ]


def heads_of(circuit: Circuit) -> tuple[Head, ...]:
    """The heads of a circuit of one group."""
    return circuit.groups[0].heads


EXPERIMENT = Experiment(
    check=check,
    measure=measure,
    audit=audit.audit_summary,
    tables=present.tables,
    figures=present.figures,
    metrics=present.metrics,
    heads=present.heads,
    paper=None,
    statements=audit.statements,
)
