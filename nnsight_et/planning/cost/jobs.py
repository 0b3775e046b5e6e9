"""What each experiment measures on each of its models, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nnsight_et.core.circuit import Circuit
from nnsight_et.engine.paths import Path
from nnsight_et.manifest import (
    CMAP,
    DCM,
    ActivationPatching,
    AttentionPatterns,
    Attribution,
    Completeness,
    Faithfulness,
    Knockout,
    Minimality,
    PathPatching,
)
from nnsight_et.manifest.methods.shared import Measured
from nnsight_et.planning.cost import expected, methods
from nnsight_et.planning.cost.methods import Rows
from nnsight_et.planning.cost.passes import Count, path_patching, total
from nnsight_et.planning.plan import Job

INPUTS = 4  # ways in which a donor's inputs are given: each of three, and all
DESIDERATA = ("object", "label", "position")  # what heads are selected for where nothing else is said
Piece = tuple[str, str, Count]
"""What is measured, empty if no other experiment measures the same; the model's name; and what it costs."""


@dataclass(frozen=True)
class Setting:
    """A job, its models' prompts and sizes by name, and the circuits that are found or expected."""

    job: Job
    rows: Mapping[str, Rows]
    circuits: Mapping[str, Circuit]

    @property
    def first(self) -> tuple[str, Rows]:
        """The job's only, or first, model."""
        name = self.job.models[0].name
        return name, self.rows[name]

    @property
    def circuit(self) -> Circuit:
        """Those groups of the job's circuit that have heads."""
        found = expected.used_by(self.job, self.circuits) or Circuit(())
        return Circuit(tuple(group for group in found.groups if group.heads))


def pieces(setting: Setting) -> Iterator[Piece]:
    """The measurements of a job, in order."""
    spec, method = setting.job.spec, setting.job.spec.method
    of: dict[str, Callable[[Setting], Iterator[Piece]]] = {
        "path_patching": _paths,
        "faithfulness": _faithfulness,
        "minimality": _minimality,
        "completeness": _completeness,
        "dcm": _dcm,
        "activation_patching": _patched,
        "cmap": _cmap,
        "knockout": _knockout,
        "attention_patterns": _looks,
        "attribution": _attribution,
    }
    if method in of:
        if getattr(spec, "only_correct", False):
            name, rows = setting.first
            yield "", name, methods.plain(rows, 2 * getattr(spec, "examples", 0))
        yield from of[method](setting)


def _made(split: str, texts: float, name: str) -> Piece:
    """Prompts that are made and encoded, once for models of one tokenizer."""
    return f"texts {split} {texts}", name, Count(texts=texts)


def _paths(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows) = setting.job.spec, setting.first
    assert isinstance(spec, PathPatching)
    shape = rows.sizes.shape
    yield _made("discovery", 2 * spec.examples, name)
    for stage in spec.stages:
        receivers = expected.receivers(setting.job, stage, setting.circuits, shape)
        path = Path(stage.at, stage.via, receivers, stage.kv_heads, stage.senders)
        every = path.reaching(shape.n_layers, shape.n_heads, shape.parallel)
        found = set(expected.kept(setting.job, stage, setting.circuits, shape))
        kept = [one for one in every if one in found]
        for senders, count in ((every, spec.examples), (kept, spec.held_out_examples)):
            if senders and count:
                prompts = rows.of(count, [stage.at])
                yield "", name, total(path_patching(rows.sizes, one, path, senders) for one in prompts)


def _means(setting: Setting, name: str) -> Iterator[Piece]:
    """What ablated heads output, measured once per model."""
    spec = setting.job.spec
    assert isinstance(spec, Measured)
    if spec.ablation == "mean":
        count, rows = spec.ablation_examples, setting.rows[name]
        yield _made("ablation", count, name)
        yield f"{name}: means of {count}", name, methods.whole(rows, count, rows.top)


def _alone(setting: Setting, name: str, circuits: int) -> Piece:
    spec, rows = setting.job.spec, setting.rows[name]
    assert isinstance(spec, Measured)
    count = methods.alone(rows, spec.examples, circuits, setting.circuit.positions)
    if spec.ablation == "resample" and circuits:
        count += methods.whole(rows, spec.examples, rows.top)
    return "", name, count


def _faithfulness(setting: Setting) -> Iterator[Piece]:
    spec = setting.job.spec
    assert isinstance(spec, Faithfulness)
    for choice in setting.job.models:
        yield _made("evaluation", 2 * spec.examples, choice.name)
        yield from _means(setting, choice.name)
        yield (
            f"{choice.name}: plain {spec.examples}",
            choice.name,
            methods.plain(setting.rows[choice.name], spec.examples),
        )
        yield _alone(setting, choice.name, 1 + spec.random_circuits)


def _minimality(setting: Setting) -> Iterator[Piece]:
    spec, (name, _) = setting.job.spec, setting.first
    assert isinstance(spec, Minimality)
    yield _made("pruning", 2 * spec.examples, name)
    yield from _means(setting, name)
    for group in setting.circuit.groups:
        heads = len(group.heads)
        yield _alone(setting, name, heads * (heads + 1) // 2)
        yield _alone(setting, name, 2 * heads)


def _completeness(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows), circuit = setting.job.spec, setting.first, setting.circuit
    assert isinstance(spec, Completeness)
    sets = spec.draws + len(circuit.groups)
    yield _made("evaluation", 2 * spec.examples, name)
    yield from _means(setting, name)
    yield _alone(setting, name, sets)
    yield "", name, methods.without(rows, spec.examples, sets, circuit.positions)


def _sets(circuit: Circuit) -> list[Circuit]:
    return [*(Circuit((group,)) for group in circuit.groups), Circuit(())]


def _dcm(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows), groups = setting.job.spec, setting.first, setting.circuit.groups
    assert isinstance(spec, DCM)
    every = spec.training_examples + spec.validation_examples + spec.test_examples
    for desideratum in spec.desiderata:
        yield _made(f"{desideratum} of masks", 3 * every, name)
        if groups:
            yield "", name, methods.masks(rows, spec, groups)
    yield "", name, methods.patched(rows, spec.test_examples, [_sets(setting.circuit)] * len(spec.desiderata))


def _patched(setting: Setting) -> Iterator[Piece]:
    spec = setting.job.spec
    assert isinstance(spec, ActivationPatching)
    sources = [_sets(setting.circuit)] * len(spec.desiderata or DESIDERATA)
    for choice in setting.job.models:
        yield _made(f"{spec.desiderata}", 3 * len(sources) * spec.draws * spec.examples, choice.name)
        yield "", choice.name, methods.patched(setting.rows[choice.name], spec.examples, sources) * spec.draws


def _cmap(setting: Setting) -> Iterator[Piece]:
    spec, circuit = setting.job.spec, setting.circuit
    assert isinstance(spec, CMAP)
    donor, recipient = (choice.name for choice in setting.job.models)
    n, given, taken = spec.examples, setting.rows[donor], setting.rows[recipient]
    anywhere = expected.anywhere(circuit, taken.sizes.shape)
    sets = [*(Circuit((group,)) for group in circuit.groups), circuit, *([anywhere] * spec.random_sets)]
    yield _made("evaluation", 2 * n, recipient)
    yield f"{donor}: plain {n}", donor, methods.plain(given, n)
    yield "", donor, methods.whole(given, n, given.top)
    yield f"{recipient}: plain {n}", recipient, methods.plain(taken, n)
    yield "", recipient, methods.received(taken, n, sets)
    for group in circuit.groups if spec.inputs else ():
        yield "", donor, methods.given_inputs(given, n, group)
        yield "", recipient, methods.received_inputs(taken, n, group, INPUTS)


def _knockout(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows) = setting.job.spec, setting.first
    assert isinstance(spec, Knockout)
    yield _made("evaluation", 2 * spec.examples, name)
    for edge in spec.edges:
        yield "", name, methods.knockout(rows, spec.examples, edge.blind)


def _looks(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows) = setting.job.spec, setting.first
    assert isinstance(spec, AttentionPatterns)
    yield _made("evaluation", 2 * spec.examples, name)
    for _ in setting.circuit.positions:
        yield "", name, methods.whole(rows, spec.examples, rows.top)


def _attribution(setting: Setting) -> Iterator[Piece]:
    spec, (name, rows) = setting.job.spec, setting.first
    assert isinstance(spec, Attribution)
    yield _made("discovery", 2 * spec.examples, name)
    for at in spec.at:
        yield "", name, methods.every_head(rows, spec.examples, at)
