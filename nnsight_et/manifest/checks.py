"""What the types cannot say: names that must exist, cycles, and each method's own rules."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from nnsight_et.circuits import published
from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.experiments import METHODS, Experiment
from nnsight_et.manifest.methods.cmap import CMAP
from nnsight_et.manifest.methods.dcm import BOXES_DESIDERATA, DCM
from nnsight_et.manifest.methods.knockout import Knockout
from nnsight_et.manifest.methods.path_patching import PathPatching
from nnsight_et.manifest.own_task import PythonTask, UnusableTask
from nnsight_et.manifest.pairs import PairsTask
from nnsight_et.manifest.schema import BoxesTask, Manifest
from nnsight_et.manifest.tasks import IOI_DESIDERATA, OF_OWN, OF_WANG, IOITask
from nnsight_et.manifest.written import ValidationContext, is_shipped
from nnsight_et.models.catalog import KNOWN_MODELS


def problems(manifest: Manifest) -> Iterator[Problem]:
    """Everything that is wrong with a manifest whose types are right."""
    try:
        positions = manifest.positions
    except UnusableTask as error:
        yield error.problem
        return
    yield from _task_problems(manifest)
    yield from _chat_problems(manifest)
    for name, experiment in manifest.experiments.items():
        known = _surroundings(manifest, name, positions)
        for path, text in _experiment_problems(manifest, experiment, known):
            yield Problem(("experiments", name, *path), text)
        for index, table in enumerate(experiment.reproduces):
            if table not in published.tables():
                text = f"the paper has no numbers for {table!a}; {accepted_names(table, published.tables())}"
                yield Problem(("experiments", name, "reproduces", index), text)
        for path, model in experiment.model_names.items():
            yield from _model_problems(manifest, ("experiments", name, *path), model)
    yield from _cycles(manifest)


def _chat_problems(manifest: Manifest) -> Iterator[Problem]:
    """A problem for each model whose prompts are to be turns of a chat, where the task's are begun sentences."""
    task = manifest.task
    if isinstance(task, PairsTask) and task.chat and task.special_tokens == "text":
        found = "found text, but the chat template already has the special tokens"
        yield Problem(("task", "special_tokens"), f"{found}; accepted: special_tokens: text or chat, not both")
    if not isinstance(task, (PairsTask, PythonTask)):
        for name, model in manifest.models.items():
            if model.chat:
                text = f"the prompts of task {task.kind} are unfinished sentences, not messages"
                yield Problem(("models", name, "chat"), f"{text}; accepted: no chat, or kind: pairs")


def _surroundings(manifest: Manifest, name: str, positions: tuple[str, ...]) -> ValidationContext:
    others = {other: experiment for other, experiment in manifest.experiments.items() if other != name}
    return ValidationContext(
        positions=positions,
        circuits=tuple(other for other, experiment in others.items() if experiment.finds_circuit),
        roles={other: experiment.desiderata for other, experiment in others.items() if isinstance(experiment, DCM)},
        scores=tuple(other for other, one in others.items() if isinstance(one, PathPatching) and one.finds_circuit),
        only_mlps=tuple(
            other for other, one in others.items() if isinstance(one, PathPatching) and not one.finds_circuit
        ),
        experiments=tuple(manifest.experiments),
        desiderata=desiderata_of(manifest),
        shapes={model: named.shape for model, named in KNOWN_MODELS.items() if model not in manifest.models},
    )


def desiderata_of(manifest: Manifest) -> tuple[str, ...]:
    """The desiderata of the manifest's task."""
    match manifest.task:
        case BoxesTask():
            return BOXES_DESIDERATA
        case IOITask():
            return IOI_DESIDERATA
        case PairsTask() as task:
            return tuple(task.desiderata or ())
        case PythonTask() as task:
            return manifest.make_task(task).desiderata
        case _:
            return ()


def _experiment_problems(manifest: Manifest, experiment: Experiment, known: ValidationContext) -> Iterator[Problem]:
    """What the method finds wrong; first what only the boxes task has, and of the keys that ask for it nothing else."""
    task, refused = manifest.task, list[Problem]()
    if not isinstance(task, BoxesTask):
        refused += _boxes_only(experiment, task.kind, known.desiderata)
    if isinstance(task, IOITask):
        refused += _order_problems(experiment, task)
    yield from refused
    keys = {problem.path[0] for problem in refused}
    if "method" not in keys:
        yield from (problem for problem in experiment.problems(known) if not keys & set(problem.path[:1]))


def _boxes_only(experiment: Experiment, kind: str, desiderata: tuple[str, ...]) -> Iterator[Problem]:
    """A problem for each thing that only the boxes task has and an experiment on a task of another `kind` asks for.

    desiderata: those that the task has of its own.
    """
    if experiment.needs_desiderata and not desiderata:
        others = ", ".join(method for method, spec in METHODS.items() if not spec.needs_desiderata)
        text = f"{experiment.method} needs a task with desiderata, such as boxes or ioi; accepted for {kind}: {others}"
        yield Problem(("method",), text)
        return
    names = ", ".join(desiderata)
    if isinstance(experiment, DCM) and "desiderata" not in experiment.model_fields_set:
        yield Problem(("desiderata",), f"missing; its default is for the boxes task; accepted: {names}")
    if experiment.reproduces:
        yield Problem(("reproduces",), f"the paper's numbers are for the boxes task; accepted for {kind}: none")
    if isinstance(experiment, CMAP) and experiment.roles is not None:
        if not desiderata:
            text = "roles select heads by desiderata, which this task lacks"
            yield Problem(("roles",), f"{text}; accepted for {kind}: no roles, to patch all heads")
        elif "main_role" not in experiment.model_fields_set:
            text = f"missing; its default is for the boxes task; accepted: for each group, one of {names}"
            yield Problem(("main_role",), text)
    if isinstance(experiment, Knockout):
        yield from _edges(experiment, kind)
    for path, name in experiment.result_names.items():
        if is_shipped(name) and (path != ("roles",) or desiderata):
            yield Problem(path, f"{name} is for the boxes task; accepted for {kind}: an experiment, or a .json file")


def _edges(experiment: Knockout, kind: str) -> Iterator[Problem]:
    accept = f"accepted for {kind}: edges between named positions"
    if "edges" not in experiment.model_fields_set:
        yield Problem(("edges",), f"missing; the default (App. A) is for the boxes task; {accept}")
        return
    for index, edge in enumerate(experiment.edges):
        if edge.to == "random":
            text = f"random means a token that is not a box label, and only the boxes task has labels; {accept}"
            yield Problem(("edges", index, "to"), text)


def _order_problems(experiment: Experiment, task: IOITask) -> Iterator[Problem]:
    """A problem for each path and blocked edge between positions that have no one order in the task's prompts."""
    accept = "accepted: task.order: ABBA or BABA, or other positions"
    if isinstance(experiment, PathPatching):
        places = {stage.group: stage.at for stage in experiment.stages}
        for index, stage in enumerate(experiment.stages):
            into = places.get(stage.into, stage.at)
            if task.is_unordered(stage.at, into):
                text = f"senders at {stage.at} and receivers at {into} have no fixed order with order: mixed; {accept}"
                yield Problem(("stages", index, "at"), text)
    if isinstance(experiment, Knockout):
        for index, edge in enumerate(experiment.edges):
            if task.is_unordered(edge.blind, edge.to):
                text = f"{edge.blind} and {edge.to} have no fixed order with order: mixed; {accept}"
                yield Problem(("edges", index, "to"), text)


def _task_problems(manifest: Manifest) -> Iterator[Problem]:
    task = manifest.task
    if isinstance(task, PairsTask):
        yield from _pairs_problems(task)
    if isinstance(task, IOITask) and task.sentences != "wang":
        for key, found in (("templates", task.templates), ("sentence", task.sentence)):
            if found is not None and found > OF_OWN:
                text = f"found {found}; accepted: 1 to {OF_OWN}, or up to {OF_WANG} with sentences: wang"
                yield Problem(("task", key), text)
    if isinstance(task, IOITask) and task.names:
        yield from _words_problems("names", task.names)
    if isinstance(task, BoxesTask) and task.objects is not None:
        yield from _words_problems("objects", task.objects)
        need = 2 * task.boxes
        if len(task.objects) < need:
            text = f"{len(task.objects)} objects; accepted: at least {need} for {task.boxes} boxes in base and source"
            yield Problem(("task", "objects"), text)


def _pairs_problems(task: PairsTask) -> Iterator[Problem]:
    """A problem for each key of the task that another one rules out or needs."""
    if task.file is None and task.dataset is None:
        yield Problem(("task", "file"), "missing; accepted: a file of pairs, or a dataset")
    if task.file is not None and task.dataset is not None:
        yield Problem(("task", "dataset"), "given together with file; accepted: one of the two")
    if task.layout is not None and task.columns is not None:
        yield Problem(("task", "layout"), "given together with columns; accepted: one of the two")
    if task.sources == "next_row" and task.columns is not None and task.columns.source is not None:
        yield Problem(("task", "columns", "source"), "given together with sources: next_row; accepted: one of the two")
    for name in task.find or ():
        if name not in task.positions:
            text = f"task.positions does not list {name!r}; {accepted_names(name, task.positions)}"
            yield Problem(("task", "find", name), text)


def _words_problems(key: str, words: tuple[str, ...]) -> Iterator[Problem]:
    for index, word in enumerate(words):
        if word in words[:index]:
            yield Problem(("task", key, index), f"{word!a} appears twice; accepted: each word once")
        elif not word.strip() or word != word.strip() or not word.isprintable():
            yield Problem(("task", key, index), f"{word!a} is not a word; accepted: a noun, without spaces around it")


def _model_problems(manifest: Manifest, path: KeyPath, model: str) -> Iterator[Problem]:
    names = (*manifest.models, *(name for name in KNOWN_MODELS if name not in manifest.models))
    if model not in names and "/" not in model:  # a folder or a hub id has one
        yield Problem(
            path, f"no model named {model!a}; {accepted_names(model, names)}, a folder with a / in it, or a hub id"
        )
    elif model != model.strip() or not model.isprintable():
        yield Problem(
            path, f"{model[:60]!a} cannot be a model's name; accepted: a folder, or a hub id such as org/name"
        )


def _cycles(manifest: Manifest) -> Iterator[Problem]:
    """A problem for each circle of experiments that wait for each other, at its first member."""
    names = list(manifest.experiments)
    waiting = {name: set(experiment.needs) & set(names) for name, experiment in manifest.experiments.items()}
    while circle := _circle(waiting):
        first = circle.index(min(circle, key=names.index))
        members = [*circle[first:], *circle[: first + 1]]
        text = f"a cycle: {' needs '.join(members)}; accepted: experiments that can be put in an order"
        yield Problem(("experiments", members[0]), text)
        waiting = {name: needs - set(circle) for name, needs in waiting.items() if name not in circle}


def _circle(waiting: dict[str, set[str]]) -> list[str]:
    """Names of which each needs the next and the last the first; none if there is no such circle."""
    try:
        TopologicalSorter(waiting).prepare()
    except CycleError as error:
        return error.args[1][:0:-1]
    return []
