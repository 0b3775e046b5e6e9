"""Manifest -> Plan: the jobs in an order that can be run, each named by a digest of what it computes.

What a job computes is its experiment with every default, its data, its models, and the jobs it needs; never the
device, the memory budget or the run's name. The same id in two manifests is the same work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic

from typing_extensions import TypeVar

from nnsight_et.circuits import published
from nnsight_et.circuits.circuit_files import OURS, CircuitFile, read_circuit
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.manifest import Experiment, Manifest, OwnModel, PathPatching, TaskData
from nnsight_et.manifest.chat import chat_identity, read_chat
from nnsight_et.manifest.written import OnCircuit, is_file, is_shipped
from nnsight_et.models.catalog import KNOWN_MODELS, ModelSpec, Shape

SCHEMA = 2  # of what is digested: a change of meaning without a change of text raises it
NAMED_ELSEWHERE = {
    "model",
    "models",
    "donor",
    "recipient",
    "circuit",
    "circuits",
    "roles",
    "scores",
    "title",
    "reproduces",
}
"""Keys whose values are names: what they stand for is digested, not what it is called in one manifest."""
LINKS = ("circuit", "circuits", "roles", "scores")
"""Of these, the keys that name results: digested by what those compute, key by key."""
SERVED = {"ndif", "ndif_adapter"}
"""Keys of a model that say where it runs, not what it is."""
LATER = {"gguf", "bos", "chat"}
"""Keys of a model that came later: where they are not written, what is digested is what it was without them."""


@dataclass(frozen=True)
class ModelChoice:
    """A model an experiment uses: its name in the manifest, where it is, and the dtype it is loaded in."""

    name: str
    spec: ModelSpec
    dtype: str
    shape: Shape | None
    """Its sizes, where they are known without its files."""
    identity: dict[str, str | None]
    """What the manifest says the model is, without folders of this machine."""


Spec = TypeVar("Spec", bound=Experiment, covariant=True, default=Experiment)


@dataclass(frozen=True)
class Job(Generic[Spec]):
    """One experiment with everything resolved."""

    name: str
    spec: Spec
    task: TaskData
    seed: int
    engine: str
    dtype: str
    attention: str
    models: tuple[ModelChoice, ...]
    needs: tuple[str, ...]
    """The names of the jobs whose results this one uses."""
    need_ids: tuple[str, ...]
    """What those jobs compute, in the same order."""
    written: dict[str, CircuitFile]
    """The circuits that no earlier job finds, by the names the experiment uses: from files, or shipped ones."""
    text: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    """What the manifest says, as it is written."""

    @property
    def circuits(self) -> dict[str, Circuit]:
        """Those circuits without the form they are written in."""
        return {name: one.circuit for name, one in self.written.items()}

    @property
    def id(self) -> str:
        """20 hexadecimal digits: the digest of what is computed."""
        spec = self.spec.identity(NAMED_ELSEWHERE)
        found = dict(zip(self.needs, self.need_ids, strict=True))
        for key in LINKS:
            names = getattr(self.spec, key, None) or ()
            names = (names,) if isinstance(names, str) else names
            spec[key] = [found.get(name, name if is_shipped(name) else "file") for name in names]
        return digest({"schema": SCHEMA, "spec": spec, "needs": list(self.need_ids)} | self._setting())

    def to_dict(self) -> dict[str, Any]:
        """The resolved job as plain data: what a result records of how it was made."""
        untitled = {"title"} if self.spec.title is None else set[str]()
        data: dict[str, Any] = {"name": self.name, "spec": self.spec.model_dump(mode="json", exclude=untitled)}
        data["needs"] = dict(zip(self.needs, self.need_ids, strict=True))
        if forms := {name: one.form for name, one in self.written.items() if one.form != OURS}:
            data["circuits_read_as"] = forms
        return data | self._setting()

    def _setting(self) -> dict[str, Any]:
        return {
            "task": self.task.identity,
            "seed": self.seed,
            "engine": self.engine,
            "dtype": self.dtype,
            "attention": self.attention,
            "models": [choice.identity for choice in self.models],
            "circuits": [
                self.circuits[name].to_dict() if name in self.circuits else None for name in self.spec.circuit_names
            ],
        }


@dataclass(frozen=True)
class Plan:
    """The jobs of a manifest, each after the jobs it needs; and how they are run, on which no digest depends."""

    name: str
    jobs: tuple[Job, ...]
    backend: str
    device: str
    memory: int | None
    """How many bytes one chunk of work may take; None: chosen by the engine."""
    self_check: bool
    probe: bool

    @property
    def digest(self) -> str:
        """20 hexadecimal digits: the digest of all jobs and their names."""
        return digest({job.name: job.id for job in self.jobs})

    def job(self, name: str) -> Job:
        """The job called `name`."""
        return next(job for job in self.jobs if job.name == name)

    def selected_jobs(self, only: Sequence[str]) -> tuple[Job, ...]:
        """The jobs named in `only` and all they need, in order; every job if `only` is empty."""
        names = [job.name for job in self.jobs]
        for name in only:
            if name not in names:
                raise ManifestError(
                    f"--only {ascii(name)[1:-1]}: no experiment has this name; {accepted_names(name, names)}"
                )
        wanted = set(only or names)
        for job in reversed(self.jobs):
            if job.name in wanted:
                wanted |= set(job.needs)
        return tuple(job for job in self.jobs if job.name in wanted)


def digest(value: Any) -> str:
    """20 hexadecimal digits that change with any part of a plain value, and with nothing else."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=10).hexdigest()


def plan(manifest: Manifest) -> Plan:
    """The manifest's jobs in order; ManifestError if a file of a circuit or of pairs cannot be used."""
    jobs, task = dict[str, Job](), manifest.task_data()

    def add(name: str) -> None:
        for need in manifest.experiments[name].needs:
            add(need)
        if name not in jobs:
            jobs[name] = _job(manifest, name, jobs, task)

    for name in manifest.experiments:
        add(name)
    return Plan(
        name=manifest.name,
        jobs=tuple(jobs.values()),
        backend=manifest.backend,
        device=manifest.device,
        memory=manifest.memory_bytes,
        self_check=manifest.self_check == "on",
        probe=manifest.probe == "on",
    )


def senders(job: Job, shape: Shape | None = None) -> int | None:
    """How many heads and MLPs the job patches at most: those that can reach; None where no shape is known or given."""
    shape = job.models[0].shape or shape if job.models else None
    return job.spec.most_senders(shape) if isinstance(job.spec, PathPatching) and shape else None


def _job(manifest: Manifest, name: str, jobs: dict[str, Job], task: TaskData) -> Job:
    spec = manifest.experiments[name]
    models = _choices(manifest, spec, jobs)
    return Job(
        name=name,
        spec=spec,
        task=task,
        seed=manifest.seed,
        engine=manifest.engine,
        dtype=manifest.dtype,
        attention=spec.attention or manifest.attention,
        models=models,
        needs=spec.needs,
        need_ids=tuple(jobs[need].id for need in spec.needs),
        written=_circuits(manifest, name, models),
        text=manifest.data,
    )


def model_choice(manifest: Manifest, name: str) -> ModelChoice:
    """What `name` stands for in the manifest: one of its models, one known by name, a folder or a hub id."""
    own = manifest.models.get(name)
    of_task = getattr(manifest.task, "chat", None)
    chat = read_chat(of_task if own is None or own.chat is None else own.chat, manifest.folder)
    if own is None and name in KNOWN_MODELS:
        named = KNOWN_MODELS[name]
        return ModelChoice(
            name, replace(named.spec, chat=chat), manifest.dtype, named.shape, {"name": name, "dtype": manifest.dtype}
        )
    written = own or OwnModel(path=name)
    dtype = written.dtype or manifest.dtype
    places = {key: _place(manifest.folder, getattr(written, key)) for key in ("adapter", "tokenizer")}
    spec = ModelSpec(
        _place(manifest.folder, written.path) or written.path,
        revision=written.revision,
        adapter_revision=written.adapter_revision,
        ndif=written.ndif,
        ndif_adapter=written.ndif_adapter,
        gguf=written.gguf,
        bos=written.bos,
        chat=chat,
        **places,
    )
    unset = {key for key in LATER if getattr(written, key) is None}
    identity = {"name": name} | written.model_dump(exclude=SERVED | unset) | {"dtype": dtype}
    if written.chat:
        identity |= chat_identity(chat)
    return ModelChoice(name, spec, dtype, None, identity)


def _place(folder: Path, written: str | None) -> str | None:
    """A folder beside the manifest where there is one, else what was written: a hub id, or a folder somewhere else."""
    if written is None:
        return None
    beside = folder / os.path.expanduser(written)
    return str(beside) if os.path.isdir(beside) or written.startswith(".") else written


def _choices(manifest: Manifest, spec: Experiment, jobs: Mapping[str, Job]) -> tuple[ModelChoice, ...]:
    """The experiment's models; without one of its own, the one its circuit was found in."""
    names = tuple(spec.model_names.values())
    if names or not isinstance(spec, OnCircuit):
        return tuple(model_choice(manifest, name) for name in names)
    if is_shipped(spec.circuit):
        return (model_choice(manifest, spec.circuit.partition("/")[2]),)
    return jobs[spec.circuit].models[:1]


def _circuits(manifest: Manifest, name: str, models: tuple[ModelChoice, ...]) -> dict[str, CircuitFile]:
    """The circuits no other experiment finds, by the names this one uses: shipped ones, and those of files."""
    circuits, experiment = {}, manifest.experiments[name]
    keys = {written: path for path, written in experiment.result_names.items()}
    places = {
        written: f"{manifest.place('experiments', name, *keys[written])}: {written}"
        for written in experiment.circuit_names
    }
    for written, where in places.items():
        if is_shipped(written):
            circuits[written] = CircuitFile(published.circuit(written.partition("/")[2]), OURS)
        elif is_file(written):
            circuits[written] = read_circuit(manifest.folder / written, where)
    for written, found in circuits.items():
        where = places[written]
        for group in found.circuit.groups:
            if group.at not in manifest.positions:
                tail = accepted_names(group.at, manifest.positions)
                raise ManifestError(f"{where}: group {group.name} is at {group.at!r}; {tail}")
        for choice in models:
            if choice.shape:
                found.circuit.check_fits(choice.shape.n_layers, choice.shape.n_heads, f"{where}: {choice.name}")
    return circuits
