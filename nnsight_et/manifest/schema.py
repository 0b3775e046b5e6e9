"""The manifest as a whole: one run of several experiments on one task; as a JSON Schema too, for editors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator
from pydantic_core import PydanticCustomError

from nnsight_et.manifest.chat import Chat
from nnsight_et.manifest.document import KeyPath, dotted_path
from nnsight_et.manifest.experiments import Experiment
from nnsight_et.manifest.own_task import MadeTask, PythonTask, make_task
from nnsight_et.manifest.pairs import PairsFile, PairsTask, read_pairs_file
from nnsight_et.manifest.tasks import BoxesTask, ColoredObjectsTask, GreaterThanTask, IOITask
from nnsight_et.manifest.written import Name, SpecModel

DType = Literal["float32", "float64", "bfloat16", "float16"]
PROBED = 40
"""How many prompts a model answers before it is measured: 15% right, where chance is 1/7, is then told from 35%."""
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
_MEMORY = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(MiB|GiB)")


HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]


class OwnModel(SpecModel):
    """A model of your own under a name that experiments use, or your own files for a built-in name."""

    path: Annotated[str, Field(min_length=1)]
    """A folder (relative to the manifest) or a hub id."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """An adapter to apply, LoRA or another kind: a folder or a hub id."""
    revision: str | None = None
    """The model's revision on the hub: a branch, tag or commit. For a folder only with `ndif`: the server's."""
    adapter_revision: str | None = None
    """The adapter's revision on the hub; not for a folder."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """Where the tokenizer is, if not with the weights: a folder or a hub id."""
    dtype: DType | None = None
    """The model's dtype; by default the manifest's."""
    ndif: HubId | None = None
    """The model's name on an NDIF server; by default `path`."""
    ndif_adapter: HubId | None = None
    """The adapter's name on an NDIF server; by default `adapter`."""
    gguf: Annotated[str, Field(min_length=1, max_length=400, pattern=r"\.[gG][gG][uU][fF]$")] | None = None
    """A GGUF file in `path` to read the weights from, such as model-Q4_K_M.gguf. It is unpacked into plain numbers."""
    bos: Literal["add", "none"] | None = None
    """`add`: begin every text with one BOS; `none`: with no BOS. By default the tokenizer decides."""
    chat: Chat = None
    """Send prompts as a user's messages in the tokenizer's chat template; the answer then begins the reply.

    true, the name of a template, or a file with one in Jinja, relative to the manifest. By default the task decides.
    """


AnyTask = BoxesTask | PairsTask | IOITask | GreaterThanTask | ColoredObjectsTask | PythonTask
TaskData = BoxesTask | PairsFile | IOITask | GreaterThanTask | ColoredObjectsTask | MadeTask
"""A task with all that its examples are made from: its file read, its class imported."""
PYTHON = "module:Class"
TASKS: dict[str, type[AnyTask]] = {
    "boxes": BoxesTask,
    "pairs": PairsTask,
    "ioi": IOITask,
    "greater_than": GreaterThanTask,
    "colored_objects": ColoredObjectsTask,
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
    | Annotated[ColoredObjectsTask, Tag("[colored_objects]")]
    | Annotated[PythonTask, Tag(f"[{PYTHON}]")],
    Discriminator(task_tag),
]


class Manifest(SpecModel):
    """A study: which experiments to run, on which task and models."""

    name: Name
    """The name of the study, and of the folder of its results."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63, strict=True)] = 0
    """The seed of everything drawn at random: prompts, resamples, random heads."""
    engine: Literal["default", "reference"] = "default"
    """`reference` runs the literal definition over whole prompts. It is slow and meant for checking."""
    dtype: DType = "float32"
    """The dtype of models whose entry under `models:` gives none."""
    backend: Literal["local", "simulate", "ndif"] = "local"
    """Where models run: on this machine, on a simulated NDIF server here, or on an NDIF server."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?|balanced)$")] = "auto"
    """The device of the local backend. It does not change which results are reused."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """The attention implementation to load models with."""
    memory: str | None = None
    """Memory for one chunk of work, such as 4GiB. It does not change which results are reused."""
    self_check: Literal["on", "off"] = "on"
    """Measure a sample of every experiment again with the reference engine. Results say if this was off."""
    probe: Literal["on", "off"] = "on"
    """First let each model answer some of the prompts, to warn you if it only guesses. It changes no number."""
    models: Annotated[dict[Name, OwnModel], Field(default_factory=dict)]
    """Models of your own, under the names that experiments use."""
    task: Task = BoxesTask()
    """What prompts are made of."""
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1, max_length=1000)]
    """The experiments by name. One may use the circuit of another; they may be written in any order."""

    _folder: Path = PrivateAttr(default_factory=Path)
    _places: dict[KeyPath, str] = PrivateAttr(default_factory=dict)
    _options: dict[KeyPath, str] = PrivateAttr(default_factory=dict)
    _data: dict[str, Any] = PrivateAttr(default_factory=dict)
    _made: MadeTask | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path:
        """Where relative paths in the manifest start."""
        return self._folder

    @property
    def data(self) -> dict[str, Any]:
        """What is written, before any of it was checked; nothing where limits changed it since."""
        return self._data

    def with_data(self, data: dict[str, Any]) -> Manifest:
        """The same manifest, which knows what it was written as."""
        moved = self.model_copy()
        moved._data = data
        return moved

    def in_folder(
        self, folder: Path, places: dict[KeyPath, str] | None = None, options: dict[KeyPath, str] | None = None
    ) -> Manifest:
        """The same manifest with relative paths that start in `folder`.

        places: where its parts are written. options: which of a command's options those come from that nobody wrote.
        """
        moved = self.model_copy()
        moved._folder, moved._made = folder, None
        moved._places, moved._options = places or self._places, options or self._options
        return moved

    def place(self, *path: str | int) -> str:
        """Where a part is written, for messages: study.yaml:3: task.file."""
        return ": ".join(filter(None, (self._places.get(path), self._options.get(path) or dotted_path(path))))

    def task_data(self) -> TaskData:
        """The task, its file read or its class imported where it has one; ManifestError if that cannot be done."""
        if isinstance(self.task, PythonTask):
            return self.make_task(self.task)
        if isinstance(self.task, PairsTask):
            return read_pairs_file(self.task, self.folder, self.place)
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
                "name", "the name 'store' is reserved for the store that all runs share; accepted: another name"
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
        return self.model_copy(update={"experiments": experiments}).with_data({})


FILE = "manifest.schema.json"
MODELINE = f"# yaml-language-server: $schema={FILE}"
"""A manifest's first line: editors with a YAML language server read the schema beside the manifest."""
TITLE = "nnsight_et manifest"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a manifest. It knows types and names, not what experiments need of each other."""
    schema = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": TITLE}


def schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def is_schema(text: str) -> bool:
    """Whether the text is a schema this or an earlier version has written."""
    try:
        return json.loads(text)["title"] == TITLE
    except (ValueError, KeyError, TypeError):
        return False
