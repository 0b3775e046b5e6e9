"""What the methods share: the models, the data, the cells and the earlier results of one run in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from torch import Tensor

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.notices import Notice
from nnsight_et.interventions.calls import Call
from nnsight_et.measuring.cell_cache import CellCache
from nnsight_et.measuring.cell_records import CellRecords
from nnsight_et.measuring.earlier import EarlierResults
from nnsight_et.measuring.examples import Data
from nnsight_et.measuring.executor import Executor
from nnsight_et.measuring.memory import ChunkSizes, OutOfMemoryBackoff
from nnsight_et.measuring.model_pool import Key, ModelPool
from nnsight_et.measuring.reading import SplitsSeen
from nnsight_et.measuring.self_check import SelfCheck
from nnsight_et.measuring.steps import Batch, Measurement
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.remote.server import Server
from nnsight_et.results.store import Store
from nnsight_et.results.summary import S
from nnsight_et.workers.pool import Workers


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
    finished: bool = False
    """Whether the experiment's result is there now. A result that was measured ends with a step of no cells."""


@dataclass(frozen=True)
class MethodOutput(Generic[S]):
    """What a finished job has found: tensors by name, headline numbers, and a digest of the data it was found on."""

    scores: dict[str, Tensor]
    summary: S
    data_digest: str


@dataclass(frozen=True)
class Measured:
    """A measurement whose cells are all in the store, under these names."""

    measurement: Measurement
    keys: dict[Batch, str]


@dataclass(frozen=True)
class Trained:
    """The masks of one desideratum: the pairs of training and validation, and the names of cells."""

    name: str
    data: Sequence[list[Example]]
    keys: list[tuple[str, str]]
    """Of what each group's training chose, and of how it went."""
    call: Call | None
    """What trained those that were missing; None where none was."""
    missing: list[str]
    """The names of their groups."""


@dataclass
class RunContext:
    """One run in progress."""

    store: Store
    folder: Path
    models: ModelPool
    memory: int | None = None
    """How many bytes one chunk of work may take; None: chosen from the device."""
    fresh: bool = False
    server: Server | None = None
    workers: Workers | None = None
    on_notice: Callable[[Notice], None] | None = None
    probed: bool = True
    """Whether each model answers a few prompts before it is measured."""
    self_check: SelfCheck = field(default_factory=SelfCheck)
    """Of the experiment that is measured now."""
    notices: dict[str, list[Notice]] = field(default_factory=dict)
    """By experiment; `tell` adds one."""
    earlier: EarlierResults = field(default_factory=EarlierResults)
    engine_errors: dict[Key, dict[str, float]] = field(default_factory=dict)
    """What the engine's checks found of a model as it runs."""

    measured: dict[str, list[Measured]] = field(default_factory=dict[str, list[Measured]])
    """By experiment, what its result will be made from; until that is checked."""
    ablating: dict[tuple[str, str], list[Prompt]] = field(default_factory=dict[tuple[str, str], list[Prompt]])
    """By experiment and model, the prompts that ablated heads' outputs come from."""
    trained: dict[str, list[Trained]] = field(default_factory=dict[str, list[Trained]])
    """By experiment, the masks that were trained."""
    loaded: dict[Key, ModelChoice] = field(default_factory=dict[Key, ModelChoice])
    """The models of the experiments that are done."""
    kinds: set[tuple[str, ...]] = field(default_factory=set[tuple[str, ...]])
    """What was done to which model by now."""
    splits: SplitsSeen = field(default_factory=SplitsSeen)

    def __post_init__(self) -> None:
        self.data = Data(self.models)
        self.records = CellRecords(self.store)
        self.cells = CellCache(self.store, self.models, self.fresh)
        self.chunk_sizes = ChunkSizes(self.models, self.store, self.folder, self.memory)
        backoff = OutOfMemoryBackoff(self.store, self.folder, self.chunk_sizes)
        self.executor = Executor(self.models, backoff, self.server, self.workers)

    def tell(self, job: Job, notice: Notice) -> None:
        """Let a user know this first, as `context.tell(job, Notice("bos", choice.name, "its prompts begin ..."))`.

        It is shown at once, once for all experiments that are told the same; it is in the job's result from there on,
        and so at the top of the report. Before the job is measured, or while it is: both will do.
        """
        if not any(notice in told for told in self.notices.values()) and self.on_notice is not None:
            self.on_notice(notice)
        of_job = self.notices.setdefault(job.name, [])
        if notice not in of_job:
            of_job.append(notice)

    def progress(self, job: Job, step: str, done: int, total: int, reused: int) -> Progress:
        """That so many of a step's cells are done, with what was checked and found damaged by now."""
        return Progress(job.name, step, done, total, reused, len(self.self_check.found), tuple(self.store.damaged))
