"""The manifest as a whole: one run of several experiments on one task."""

from __future__ import annotations

import re
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.manifest.built_in_tasks import GreaterThanTask, IOITask
from nnsight_et.manifest.document import KeyPath, dotted_path
from nnsight_et.manifest.experiments import Experiment
from nnsight_et.manifest.own_pairs import PairsFile, PairsTask, read_pairs_file
from nnsight_et.manifest.own_task import MadeTask, PythonTask, make_task
from nnsight_et.manifest.written import Count, Name, SpecModel

DType = Literal["float32", "float64", "bfloat16", "float16"]
PROBED = 40
"""How many prompts a model answers before it is measured: 15% right, where chance is 1/7, is then told from 35%."""
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
_MEMORY = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(MiB|GiB)")


HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]


class OwnModel(SpecModel):
    """A model under a name of your own, or a built-in name with files of your own."""

    path: Annotated[str, Field(min_length=1)]
    """A folder (relative to the manifest) or a hub id."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """An adapter over it, LoRA or another kind: a folder or a hub id."""
    revision: str | None = None
    """The hub's revision of the model: a branch, tag or commit. Of a folder only with `ndif`: the server's."""
    adapter_revision: str | None = None
    """The hub's revision of the adapter; not of a folder."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """A folder or a hub id, where the tokenizer is not beside the weights."""
    dtype: DType | None = None
    """Its dtype, where it differs from the manifest's."""
    ndif: HubId | None = None
    """Its name on an NDIF server, where that is not `path`."""
    ndif_adapter: HubId | None = None
    """The adapter's name on an NDIF server, where that is not `adapter`."""
    gguf: Annotated[str, Field(min_length=1, max_length=400, pattern=r"\.[gG][gG][uU][fF]$")] | None = None
    """The file in `path` that has the weights, where that is a GGUF file: model-Q4_K_M.gguf. Read as plain numbers."""
    bos: Literal["add", "none"] | None = None
    """`add`: every text begins with the BOS, once; `none`: without it. Absent: as the tokenizer does it."""


class BoxesTask(SpecModel):
    """The paper's entity tracking task: which object is in the box that is asked for (§3)."""

    all_positions: ClassVar[tuple[str, ...]] = ("correct_object", "previous_query_label", "query_label", "last")

    kind: Literal["boxes"] = "boxes"
    boxes: Count = 7
    """How many boxes a prompt has: 2 to 12."""
    objects: tuple[str, ...] | None = None
    """Your own objects, each a single token of the model's tokenizer; the paper's when absent."""

    @field_validator("boxes")
    @classmethod
    def enough_letters(cls, boxes: int) -> int:
        """A base and a source need a letter per box each, and one more is asked for."""
        if not 2 <= boxes <= 12:
            need = {"need": 2 * boxes + 1, "boxes": boxes, "letters": len(ascii_uppercase)}
            text = "{boxes} boxes need {need} letters and there are {letters}; accepted: 2 to 12"
            if boxes < 2:
                text = "{boxes} box leaves nothing to track; accepted: 2 to 12"
            raise PydanticCustomError("boxes", text, need)
        return boxes

    @property
    def identity(self) -> dict[str, Any]:
        """What is computed on, as plain data."""
        return self.model_dump(mode="json")


AnyTask = BoxesTask | PairsTask | IOITask | GreaterThanTask | PythonTask
TaskData = BoxesTask | PairsFile | IOITask | GreaterThanTask | MadeTask
"""A task with all that its examples are made from: its file read, its class imported."""
PYTHON = "module:Class"
TASKS: dict[str, type[AnyTask]] = {
    "boxes": BoxesTask,
    "pairs": PairsTask,
    "ioi": IOITask,
    "greater_than": GreaterThanTask,
    PYTHON: PythonTask,
}


def task_tag(task: Any) -> str | None:
    """Which task is written, in the brackets that tell a tag from a key; boxes where it does not say."""
    kind = task.get("kind", "boxes") if isinstance(task, dict) else getattr(task, "kind", None)
    if isinstance(kind, str) and ":" in kind:
        kind = PYTHON
    return None if kind is None else f"[{kind}]"


Task = Annotated[
    Annotated[BoxesTask, Tag("[boxes]")]
    | Annotated[PairsTask, Tag("[pairs]")]
    | Annotated[IOITask, Tag("[ioi]")]
    | Annotated[GreaterThanTask, Tag("[greater_than]")]
    | Annotated[PythonTask, Tag(f"[{PYTHON}]")],
    Discriminator(task_tag),
]


class Manifest(SpecModel):
    """Everything that is to be computed, and from what."""

    name: Name
    """Names the run's folder."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)] = 0
    engine: Literal["default", "reference"] = "default"
    """`reference` runs the literal definition over whole prompts: slow, and for checking."""
    dtype: DType = "float32"
    backend: Literal["local", "simulate", "ndif"] = "local"
    """Where models run: here, on an NDIF server, or on a small one of this machine that speaks its language."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?|balanced)$")] = "auto"
    """Where models of the local backend run; not part of what is computed."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """The attention implementation models are loaded with."""
    memory: str | None = None
    """How much memory one chunk of work may take, such as 4GiB; not part of what is computed."""
    self_check: Literal["on", "off"] = "on"
    """Whether a sample of every experiment is measured again by the reference engine; results say if it was not."""
    probe: Literal["on", "off"] = "on"
    """Whether models first answer a few of the prompts, so that answers by chance are told of; it changes no number."""
    models: Annotated[dict[Name, OwnModel], Field(default_factory=dict)]
    """Models of your own, by the names the experiments use."""
    task: Task = BoxesTask()
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1, max_length=1000)]
    """What to compute, by name; a later one may use an earlier one's circuit, in any order of the text."""

    _folder: Path = PrivateAttr(default_factory=Path)
    _places: dict[KeyPath, str] = PrivateAttr(default_factory=dict)
    _made: MadeTask | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path:
        """Where relative paths in the manifest start."""
        return self._folder

    def in_folder(self, folder: Path) -> Manifest:
        """The same manifest with relative paths that start in `folder`."""
        moved = self.model_copy()
        moved._folder, moved._made = folder, None
        return moved

    def with_places(self, places: dict[KeyPath, str]) -> Manifest:
        """The same manifest, which knows where its parts are written."""
        moved = self.model_copy()
        moved._places = places
        return moved

    def place(self, *path: str | int) -> str:
        """Where a part is written, for messages: study.yaml:3: task.file."""
        return ": ".join(filter(None, (self._places.get(path), dotted_path(path))))

    def task_data(self) -> TaskData:
        """The task, its file read or its class imported where it has one; ManifestError if that cannot be done."""
        if isinstance(self.task, PythonTask):
            return self.make_task(self.task)
        if isinstance(self.task, PairsTask):
            return read_pairs_file(self.task, self.folder, self.place("task", "file"))
        return self.task

    def make_task(self, task: PythonTask) -> MadeTask:
        """The object of the manifest's Python task, made once; UnusableTask if it cannot be."""
        if self._made is None:
            self._made = make_task(task, self.folder)
        return self._made

    @property
    def positions(self) -> tuple[str, ...]:
        """The task's named positions, in the order of a prompt; UnusableTask if its class cannot be imported."""
        task = self.task
        return self.make_task(task).all_positions if isinstance(task, PythonTask) else task.all_positions

    @property
    def memory_bytes(self) -> int | None:
        """The memory budget in bytes; None: chosen by the engine."""
        match = _MEMORY.fullmatch(self.memory or "")
        return int(float(match[1]) * _UNITS[match[2]]) if match else None

    @field_validator("name")
    @classmethod
    def not_the_store(cls, name: str) -> str:
        """runs/store holds what all runs share."""
        if name.lower() == "store":
            raise PydanticCustomError(
                "name", "the name 'store' is taken by the cells all runs share; accepted: another"
            )
        return name

    @field_validator("memory")
    @classmethod
    def amount(cls, memory: str | None) -> str | None:
        """An amount of memory is a positive number and its unit."""
        match = _MEMORY.fullmatch(memory or "")
        if memory is not None and (match is None or float(match[1]) == 0):
            found = {"found": ascii(memory[:40])}
            raise PydanticCustomError("memory", "found {found}; accepted: an amount such as 512MiB or 4GiB", found)
        return memory

    def with_limit(self, examples: int) -> Manifest:
        """The same manifest with at most `examples` examples everywhere, for a quick look.

        Mask trainings keep as many as they need to select a head.
        """
        experiments = {name: experiment.with_limit(examples) for name, experiment in self.experiments.items()}
        return self.model_copy(update={"experiments": experiments})
