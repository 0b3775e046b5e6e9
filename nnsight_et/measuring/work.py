"""What jobs share: models in memory, data, chunk sizes, and the cells already measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnsight_et.core.batch import Example, Pair, Prompt, collate
from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ExperimentError
from nnsight_et.core.notices import Notice
from nnsight_et.engine.budget import DEFAULT_BYTES, Chunks, chunks
from nnsight_et.interventions.calls import Call
from nnsight_et.manifest.written import is_shipped
from nnsight_et.measuring.lengths import fitting
from nnsight_et.measuring.memory import SMALLER, OutOfMemory, SmallerChunks, capacity
from nnsight_et.measuring.roles import Roles
from nnsight_et.measuring.self_check import SelfCheck
from nnsight_et.measuring.tasks import Sample, examples_of, most_of, needs_foils, prompts_of, told_of
from nnsight_et.models.files import Files, found
from nnsight_et.models.load import distant, loaded, shape_of, tokenizer_of
from nnsight_et.models.model import Model
from nnsight_et.models.named import Shape
from nnsight_et.planning.plan import Job, ModelChoice, digest
from nnsight_et.remote.server import Server, check_place
from nnsight_et.results.disk import write_json
from nnsight_et.results.store import Result, Store
from nnsight_et.tasks.answers import roles
from nnsight_et.workers.pool import Workers
from nnsight_et.workers.worker import Place

ENGINE_VERSION = 2  # raised when the same words start to mean other numbers: cells of before are not used
CHUNKS = "chunks.json"


@dataclass(frozen=True)
class Progress:
    """One more cell of an experiment's step is done; `reused` of those `done` came from the store."""

    experiment: str
    step: str
    done: int
    total: int
    reused: int
    checks: int = 0
    """How many self-checks of the experiment have passed by now."""
    damaged: tuple[Path, ...] = ()
    """What the run has found damaged by now; it is measured, or made, again."""


@dataclass(frozen=True)
class Outcome:
    """What a finished job has found: tensors by name, headline numbers, and a digest of the data it was found on."""

    scores: dict[str, Tensor]
    summary: dict[str, Any]
    data_digest: str


@dataclass
class Work:
    """One run in progress: the store, its folder, where models run, and what was loaded or found so far."""

    store: Store
    folder: Path
    device: str
    memory: int | None
    fresh: bool
    server: Server | None = None
    workers: Workers | None = None
    on_layer: Callable[[int], None] | None = None
    on_notice: Callable[[Notice], None] | None = None
    notices: dict[str, list[Notice]] = field(default_factory=dict)
    """By experiment; `tell` adds one."""
    ahead: dict[tuple[str, str, str], tuple[list[Call], Callable[[list[Any]], None]]] = field(default_factory=dict)
    """By model, dtype and attention: calls that go to a server with the next ones, and who takes what they find."""
    finished: dict[str, Result] = field(default_factory=dict)
    scored: dict[tuple[str, str], dict[str, set[int]]] = field(default_factory=dict)
    """By experiment and model: the tokens that its examples are scored by, by what they are in them."""
    self_check: SelfCheck = field(default_factory=SelfCheck)
    engine_errors: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)  # of a model as it runs
    _kept: set[str] = field(default_factory=set)
    _files: dict[str, Files] = field(default_factory=dict)
    _in_memory: tuple[tuple[str, str, str], Model] | None = None

    def tell(self, job: Job, notice: Notice) -> None:
        """Let a user know this first, as `work.tell(job, Notice("bos", choice.name, "its prompts begin ..."))`.

        It is shown at once, once for all experiments that are told the same; it is in the job's result from there on,
        and so at the top of the report. Before the job is measured, or while it is: both will do.
        """
        if not any(notice in told for told in self.notices.values()) and self.on_notice is not None:
            self.on_notice(notice)
        of_job = self.notices.setdefault(job.name, [])
        if notice not in of_job:
            of_job.append(notice)

    def files(self, choice: ModelChoice) -> Files:
        """The model's files and fingerprint."""
        if choice.name not in self._files:
            self._files[choice.name] = found(choice.name, choice.spec, weights_too=self.server is None)
        return self._files[choice.name]

    def shape(self, choice: ModelChoice) -> Shape:
        """The model's sizes, from its configuration."""
        return shape_of(self.files(choice))

    def model(self, job: Job, choice: ModelChoice) -> Model:
        """The model in memory, or what stands here for one on a server; the one before it leaves."""
        name = (choice.name, choice.dtype, job.attention)
        if self._in_memory is None or self._in_memory[0] != name:
            self._in_memory = None
            gc.collect()
            self._in_memory = (name, self._made(job, choice))
        return self._in_memory[1]

    def _made(self, job: Job, choice: ModelChoice) -> Model:
        files = self.files(choice)
        if self.server is None:
            return replace(loaded(files, choice.dtype, self.device, job.attention), on_layer=self.on_layer)
        return distant(files, choice.spec, choice.dtype, job.attention)

    @property
    def in_memory(self) -> tuple[str, str, str] | None:
        """Name, dtype and attention of the model in memory, if one is."""
        return self._in_memory and self._in_memory[0]

    def results(self, job: Job, choice: ModelChoice, calls: Iterable[Call]) -> Iterator[Any]:
        """What each call finds, one after the other; on a server all are one piece of work."""
        if self.server is None:
            yield from self._within_memory(job, choice, calls)
            return
        together = list(calls)
        if not together:
            return
        first, take = self.ahead.pop((choice.name, choice.dtype, job.attention), ([], None))
        done = self.server.results(self.model(job, choice), [*first, *together], job.name)
        check_place(done["place"], choice, f"experiments.{job.name}")
        if take is not None:
            take(done["found"][: len(first)])
        yield from done["found"][len(first) :]

    def _within_memory(self, job: Job, choice: ModelChoice, calls: Iterable[Call]) -> Iterator[Any]:
        """What the calls find; a run after one that failed for want of memory chooses its chunk sizes anew."""
        try:
            if self.workers is None:
                for call in calls:
                    yield self.smaller.result_of(self.model(job, choice), call, job, choice)
            else:
                place = Place(self.files(choice), choice.dtype, self.device, job.attention)
                yield from self.smaller.results_of(self.workers, place, calls, job, choice)
        except OutOfMemory:
            self._write_chunks({key: one for key, one in self._chunks.items() if not key.startswith(f"{choice.name}/")})
            raise

    @cached_property
    def smaller(self) -> SmallerChunks:
        """Where memory has run out."""
        return SmallerChunks(self.store, self.folder / SMALLER)

    def fits_wide(self, choice: ModelChoice) -> bool:
        """Whether the model in fp32 is no larger than the memory budget."""
        return self.server is None and 4 * self.shape(choice).parameters <= (self.memory or DEFAULT_BYTES)

    def chunks(self, job: Job, choice: ModelChoice, prompt_tokens: int) -> Chunks:
        """The model's chunk sizes: chosen once per run directory, so that a resumed run gives the same bytes."""
        name = f"{choice.name}/{choice.dtype}/{prompt_tokens}"
        if name not in self._chunks:
            shape, size = self.shape(choice), getattr(torch, choice.dtype).itemsize
            budget = self.memory or capacity(self.device, shape.parameters * size)
            self._chunks[name] = chunks(shape, size, prompt_tokens, budget)
            self._write_chunks(self._chunks)
        return self._chunks[name]

    def _write_chunks(self, some: dict[str, Chunks]) -> None:
        write_json(self.folder / CHUNKS, {key: value.to_dict() for key, value in some.items()})

    @cached_property
    def _chunks(self) -> dict[str, Chunks]:
        return {key: Chunks(**value) for key, value in self.store.notes(self.folder / CHUNKS).items()}

    def key(self, job: Job, choice: ModelChoice, what: dict[str, Any]) -> str:
        """The name of a cell: a digest of the model, how it runs, and `what` is measured on which data."""
        setting = {"engine": job.engine, "version": ENGINE_VERSION, "dtype": choice.dtype, "attention": job.attention}
        return digest({"model": self.files(choice).fingerprint, **setting, **what})

    def stored(self, key: str) -> dict[str, Tensor] | None:
        """The cell of that name, unless this run is to measure everything afresh."""
        return None if self.fresh and key not in self._kept else self.store.cell(key)

    def cell(self, key: str) -> dict[str, Tensor]:
        """The tensors of a cell that this run has found in the store or put there; ExperimentError if it is gone."""
        tensors = self.store.cell(key)
        if tensors is None:
            raise ExperimentError(f"the store's cell {key} was removed or damaged during the run; run again to mend it")
        return tensors

    def kept(self, key: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The cell's tensors, now also in the store."""
        self.store.write_cell(key, tensors)
        self._kept.add(key)
        return tensors

    def examples(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Example]:
        """Pairs of the job's task, with foils if its metric needs them; TaskError if one is too long for the model."""
        sample = Sample(split, count, job.seed, needs_foils(job))
        with told_of(job):
            examples = examples_of(job.task, tokenizer_of(self.files(choice)), sample)
        scored = self.scored.setdefault((job.name, choice.name), {})
        for role, tokens in chain.from_iterable(map(roles, examples)):
            scored.setdefault(role, set()).update(tokens)
        return fitting(examples, self.files(choice), job.name, self.server is not None)

    def most(self, job: Job, split: str) -> float:
        """How many pairs of the job's task a split can have: without end, unless a file or the task ends."""
        return most_of(job, split)

    def prompts(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Prompt]:
        """Single prompts of the job's task: what mean ablation averages over."""
        with told_of(job):
            prompts = prompts_of(job.task, tokenizer_of(self.files(choice)), Sample(split, count, job.seed))
        return fitting(prompts, self.files(choice), job.name, self.server is not None)

    def pad(self, choice: ModelChoice) -> int:
        """The tokenizer's padding token."""
        pad = tokenizer_of(self.files(choice)).pad_token_id
        assert isinstance(pad, int)
        return pad

    def pair(self, choice: ModelChoice, examples: Sequence[Example], batch: Sequence[int]) -> Pair:
        """Those of the examples that `batch` counts, as one batch."""
        return collate([examples[index] for index in batch], self.pad(choice))

    def circuit(self, job: Job, empty: bool = False) -> Circuit:
        """The circuit the job uses: from its file, a shipped one, or found by the experiment it needs.

        ExperimentError if it has no groups, or, unless it may be `empty`, no heads.
        """
        name = job.spec.circuit_names[0]
        circuit = self.named_circuit(job, name)
        if not circuit.groups or not (empty or circuit.size):
            raise ExperimentError(
                f"experiments.{job.name}: the circuit {name} has no heads; accepted: one that has some"
            )
        return circuit

    def named_circuit(self, job: Job, name: str) -> Circuit:
        """One of the circuits the job names: from a file, a shipped one, or found by an experiment."""
        if name in job.circuits:
            return job.circuits[name]
        return Circuit.from_dict(self.finished[name].header.summary["circuit"], f"experiment {name}")

    def roles(self, name: str) -> Roles:
        """The DCM selections called `name`: shipped ones, or those of an experiment."""
        if is_shipped(name):
            return Roles.shipped(name.partition("/")[2])
        return Roles.found(self.finished[name].header.summary)

    def check_circuit(self, job: Job, choice: ModelChoice, circuit: Circuit | None = None) -> Shape:
        """The model's sizes; TaskError if the circuit, or without one any that no job finds, has heads beyond them."""
        shape = self.shape(choice)
        for one in job.circuits.values() if circuit is None else (circuit,):
            one.check_fits(shape.n_layers, shape.n_heads, f"experiments.{job.name}: {choice.name}")
        return shape
