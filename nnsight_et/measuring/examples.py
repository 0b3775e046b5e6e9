"""From a manifest's task to the examples of a job. What was drawn last is kept: models of one tokenizer see the same
prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from nnsight_et.core.batch import Example, Pair, Prompt, check_lengths, check_tokens, collate
from nnsight_et.core.errors import TaskError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.core.turns import makes_turns
from nnsight_et.manifest import BoxesTask, ColoredObjectsTask, GreaterThanTask, IOITask, MadeTask, PairsFile, TaskData
from nnsight_et.manifest.written import Scored
from nnsight_et.measuring.model_pool import ModelPool
from nnsight_et.models.files import Files
from nnsight_et.models.load import longest_alike, longest_prompt, shape_of
from nnsight_et.planning.plan import Job, ModelChoice
from nnsight_et.tasks.answers import roles, text_of
from nnsight_et.tasks.boxes import OBJECTS, Boxes
from nnsight_et.tasks.colored_objects import ColoredObjects
from nnsight_et.tasks.desiderata import desideratum
from nnsight_et.tasks.greater_than import GreaterThan
from nnsight_et.tasks.ioi import IOI
from nnsight_et.tasks.own_pairs import OwnPairs, with_swaps
from nnsight_et.tasks.own_task import OwnTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AnyTask = Boxes | OwnPairs | IOI | GreaterThan | ColoredObjects | OwnTask
Some = TypeVar("Some", Prompt, Example)
KEPT = 64  # samples


class Sample(NamedTuple):
    """How many examples, from which split and seed; `foils`: those of the boxes task with foils; `draw`: of swaps."""

    split: str
    count: int
    seed: int
    foils: bool = False
    draw: int = 0


@dataclass
class Data:
    """The examples and prompts of a run's jobs, none of them longer than its model takes."""

    made: ClassVar[bool] = True
    """Whether they are what a task gives for a split and a number."""
    models: ModelPool
    scored: dict[tuple[str, str], dict[str, set[tuple[int, ...]]]] = field(default_factory=dict)
    """By experiment and model: the tokens of each text that its examples are scored by, by what they are in them."""
    sent: dict[tuple[str, str], str] = field(default_factory=dict)
    """By experiment and model: the first base prompt as the model is given it, where it is a turn of a chat."""
    first: dict[str, tuple[ModelChoice, Example]] = field(default_factory=dict)
    """By experiment: a model, and the first of its examples."""

    def examples(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Example]:
        """Pairs of the job's task, with foils if its metric needs them; TaskError if one is too long for the model."""
        sample = Sample(split, count, job.seed, needs_foils(job))
        with naming_job_in_errors(job):
            examples = examples_of(job.task, self.models.tokenizer(choice), sample)
        return self._require_fit(job, choice, self._note_scored(job, choice, examples))

    def swapped_pairs(
        self, job: Job, choice: ModelChoice, name: str, *, split: str, count: int, draw: int = 0
    ) -> list[Example]:
        """Pairs of the task's desideratum `name`; every `draw` gives others."""
        sample = Sample(split, count, job.seed, draw=draw)
        with naming_job_in_errors(job):
            pairs = examples_of(job.task, self.models.tokenizer(choice), sample, name)
        return self._require_fit(job, choice, self._note_scored(job, choice, pairs))

    def prompts(self, job: Job, choice: ModelChoice, split: str, count: int) -> list[Prompt]:
        """Single prompts of the job's task: what mean ablation averages over."""
        sample = Sample(split, count, job.seed)
        with naming_job_in_errors(job):
            prompts = prompts_of(job.task, self.models.tokenizer(choice), sample)
        return self._require_fit(job, choice, prompts)

    def available(self, job: Job, split: str) -> float:
        """How many pairs of the job's task a split can have: without end, unless a file or the task ends."""
        task = task_of(job.task)
        with naming_job_in_errors(job):
            return task.available(job.seed, split) if isinstance(task, (OwnPairs, OwnTask)) else inf

    def pair(
        self,
        choice: ModelChoice,
        examples: Sequence[Example],
        batch: Sequence[int],
        metric: Metric = DEFAULT_METRIC,
    ) -> Pair:
        """Those of the examples that `batch` counts, as one batch that is scored by the metric."""
        return collate([examples[index] for index in batch], self.models.pad(choice), metric=metric)

    def _note_scored(self, job: Job, choice: ModelChoice, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples, the tokens they are scored by now being known."""
        tokenizer = self.models.tokenizer(choice)
        if examples:
            self.first.setdefault(job.name, (choice, examples[0]))
        if examples and makes_turns(tokenizer):
            self.sent.setdefault((job.name, choice.name), text_of(examples[0].base, tokenizer))
        scored = self.scored.setdefault((job.name, choice.name), {})
        for role, texts in chain.from_iterable(map(roles, examples)):
            scored.setdefault(role, set()).update(texts)
        return examples

    def _require_fit(self, job: Job, choice: ModelChoice, some: Iterable[Some]) -> list[Some]:
        return require_prompts_fit(some, self.models.files(choice), job.name, self.models.on_server)


def task_of(task: TaskData, foils: bool = False) -> AnyTask:
    """Where the examples of a manifest's task come from; TaskError naming a line of its file that is wrong.

    foils: whether those of the boxes task are to have foils; others have them or not.
    """
    match task:
        case PairsFile():
            return _pairs_of(task)
        case IOITask():
            wang, symmetric = task.sentences == "wang", task.sources == "symmetric"
            return IOI(task.order, task.used, task.names, wang, symmetric, task.sentence)
        case GreaterThanTask():
            return GreaterThan()
        case ColoredObjectsTask():
            return ColoredObjects()
        case MadeTask():
            return OwnTask(task)
        case _:
            return replace(boxes_of(task), foils=foils)


@lru_cache(maxsize=1)
def _pairs_of(task: PairsFile) -> OwnPairs:
    made = OwnPairs.of(task.text, task.name, task.positions, task.tokens_as, form=task.form, mapping=task.mapping)
    return with_swaps(made, {name: _pairs_of.__wrapped__(swaps) for name, swaps in task.desiderata})


def boxes_of(task: TaskData) -> Boxes:
    """The generator of the boxes task, for methods that are of no other one."""
    assert isinstance(task, BoxesTask)
    return Boxes(task.boxes, task.objects or OBJECTS)


def examples_of(
    task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None = None
) -> tuple[Example, ...]:
    """Pairs for a tokenizer: the task's own, or those of the desideratum whose variable is `swapped`."""
    frozen: Any = task  # and so hashable, which its class does not tell a type checker
    return _examples(frozen, tokenizer, sample, swapped)


def prompts_of(task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    """Single prompts for a tokenizer: what mean ablation averages over."""
    frozen: Any = task
    return _prompts(frozen, tokenizer, sample)


@lru_cache(maxsize=KEPT)
def _examples(
    task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample, swapped: str | None
) -> tuple[Example, ...]:
    split, count, seed = sample.split, sample.count, sample.seed
    if swapped is None:
        return tuple(task_of(task, sample.foils).examples(tokenizer, count, seed, split))
    made = task_of(task)
    if isinstance(made, OwnPairs):
        return tuple(made.desideratum(swapped, tokenizer, count, seed, split, draw=sample.draw))
    seed = 1000 * seed + sample.draw
    if isinstance(made, (OwnTask, IOI)):
        return tuple(made.desideratum(swapped, tokenizer, count, seed, split))
    return tuple(desideratum(boxes_of(task), swapped, tokenizer, count, seed, split))


@lru_cache(maxsize=KEPT)
def _prompts(task: TaskData, tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[Prompt, ...]:
    return tuple(task_of(task).prompts(tokenizer, sample.count, sample.seed, sample.split))


def needs_foils(job: Job) -> bool:
    """Whether the job's metric compares the answer with foils."""
    return isinstance(job.spec, Scored) and METRICS[job.spec.metric].needs_foils


@contextmanager
def naming_job_in_errors(job: Job) -> Iterator[None]:
    """While open, a TaskError about examples that come neither from the boxes task nor from a file names the job."""
    try:
        yield
    except TaskError as error:
        if isinstance(job.task, (BoxesTask, PairsFile)):
            raise
        raise TaskError(f"experiments.{job.name}: {error}") from error


def require_prompts_fit(some: Iterable[Some], files: Files, experiment: str, on_server: bool = False) -> list[Some]:
    """The same examples or prompts; TaskError if the model has no positions or rows for its tokens.

    On a server also if one has so many that its rotations depend on the other prompts of a pass; here they do not.
    """
    every, where = list(some), f"experiments.{experiment}"
    check_lengths(every, longest_prompt(files), where, files.name)
    check_tokens(every, shape_of(files).vocabulary, where, files.name)
    most = longest_alike(files) if on_server else None
    length = max((one.length for one in every), default=0)
    if most is not None and length > most:
        found = f"a prompt of {length} tokens; beyond {most}, {files.name}'s rotations depend on the longest of a batch"
        raise TaskError(
            f"{where}: {found}; accepted: at most {most} tokens on a server; longer ones with backend: local"
        )
    return every


def has_length_limit(files: Files, on_server: bool) -> bool:
    """Whether a prompt can be too long for the model where it runs."""
    return longest_prompt(files) is not None or (on_server and longest_alike(files) is not None)
