"""What results say of themselves: result.json, which is read without torch, and the folder it lies in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from nnsight_et.core.errors import ResultError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.core.notices import Notice
from nnsight_et.manifest import Experiment
from nnsight_et.manifest.schema import DType
from nnsight_et.manifest.values import value_problem
from nnsight_et.manifest.written import Scored
from nnsight_et.planning.plan import Job, Plan, digest
from nnsight_et.results.records import CircuitRecord, Record

HEADER = "result.json"
SCHEMA = 2
"""Of result.json and of the names in scores.safetensors. Raised when either says more or less."""


class ModelRecord(Record):
    """A model as it was used."""

    name: str
    """Its name in the manifest."""
    fingerprint: str
    """Digest of its files."""
    description: str
    """Where it came from."""


class TaskRecord(Record):
    """The task's settings that change what is computed. Which keys there are depends on `kind`."""

    kind: str
    """boxes, pairs, ioi, greater_than, colored_objects, or the module:Class of a task of your own."""
    boxes: Annotated[int, Field(ge=2)] | None = None
    """boxes: how many a prompt has."""
    objects: list[str] | None = None
    """boxes: objects of your own."""
    positions: list[str] = Field(default_factory=list[str])
    """pairs, and a task of your own: its named positions, without `last`."""
    pairs: str = ""
    """pairs: digest of the file's content."""
    space: str = ""
    """pairs: what the manifest says of spaces before answers."""
    special_tokens: str = ""
    """pairs: what the manifest says of special tokens."""
    answer_tokens: str = ""
    """pairs: what the manifest says of how many tokens answers have."""
    chat: bool | str | None = None
    """pairs, and a task of your own: whether prompts are turns of a chat; or a template's name, or a digest of it."""
    form: str = ""
    """pairs: commas, tabs or rows (Parquet, a dataset), where the file is no JSON."""
    mapping: dict[str, Any] = Field(default_factory=dict[str, Any])
    """pairs: which columns make a pair, and how positions are found, where the manifest says it."""
    desiderata: dict[str, Any] | list[str] = Field(default_factory=dict[str, Any])
    """pairs, and a task of your own: its desiderata; of files, by name what is said of the pairs."""
    order: str = ""
    """ioi: who is named first."""
    templates: int = 0
    """ioi: how many sentences are used."""
    names: list[str] | None = None
    """ioi: names of your own."""
    sentences: str = ""
    """ioi: whose sentences are used."""
    sentence: int = 0
    """ioi: the number of the only sentence that is used; 0 where there are several."""
    sources: str = ""
    """ioi: what the source prompts are."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """A task of your own: its options."""
    source: str = ""
    """A task of your own: digest of the text of its module."""
    version: str | int | None = None
    """Of the generator: another one makes other prompts of the same words."""


class JobModel(Record):
    """A model as the manifest names it."""

    name: str
    """Its name in the manifest."""
    path: str | None = None
    """Its folder or hub id; absent for a model known by name."""
    adapter: str | None = None
    """The adapter over it."""
    revision: str | None = None
    """The hub's revision of the model."""
    adapter_revision: str | None = None
    """The hub's revision of the adapter."""
    tokenizer: str | None = None
    """Where its tokenizer is, if not beside the weights."""
    gguf: str | None = None
    """The GGUF file that has its weights."""
    bos: str | None = None
    """Whether texts begin with the BOS, where the manifest says so."""
    chat: bool | str | None = None
    """Whether prompts are turns of a chat, where the manifest says so; a template's name, or a digest of its text."""
    dtype: str | None = None
    """The dtype it is loaded in."""


class JobRecord(Record):
    """The experiment as it was run, with every default."""

    name: str
    """Its name in the manifest."""
    spec: Experiment
    """What the manifest says of it: the keys of its method."""
    needs: dict[str, str]
    """The experiments whose results it used -> their job ids."""
    circuits_read_as: dict[str, str] = Field(default_factory=dict[str, str])
    """Circuits of files that are not in this package's form -> the form they are in."""
    task: TaskRecord
    """Its data."""
    seed: int
    """What examples, resamples and random sets are drawn from."""
    engine: Literal["default", "reference"]
    """Which engine measured it."""
    dtype: DType
    """The dtype of models that have none of their own."""
    attention: str
    """The attention implementation of its models."""
    models: list[JobModel]
    """Its models, in its order."""
    circuits: list[CircuitRecord | None]
    """The circuits it names; null for what another experiment found."""

    @classmethod
    def of(cls, job: Job) -> JobRecord:
        """The record of a job."""
        return cls.model_validate(job.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the keys that were given, and no others."""
        return self.model_dump(mode="json", exclude_unset=True)


class CheckRecord(Record):
    """A check that was made and passed."""

    check: str
    """Its name."""
    worst: float
    """The largest difference that was found."""
    tolerance: float
    """The largest one accepted."""
    cells: int | None = None
    """How many cells were measured again."""
    group: str | None = None
    """The head group it is about."""
    model: str | None = None
    """The model it is about."""
    step: str | None = None
    """The step of the experiment it is about."""

    @property
    def passed(self) -> bool:
        """Whether the difference is accepted."""
        return self.worst <= self.tolerance


class SelfCheckRecord(Record):
    """What was measured twice, or was known beforehand."""

    on: bool
    """Whether the manifest asks for it."""
    checks: list[CheckRecord]
    """The checks, in the order they were made."""
    seconds: float = 0.0
    """How long they took."""


class ResultHeader(Record):
    """What result.json holds: how a result was made, and its headline numbers."""

    model_config = ConfigDict(strict=False)

    schema_version: Literal[2] = SCHEMA
    """Which form the file has."""
    job: JobRecord
    """The experiment with every default."""
    job_id: str
    """Digest of what the manifest asked for."""
    identity: str
    """Digest of what was computed: the job and the fingerprints of models and data."""
    models: list[ModelRecord]
    """The models that were read."""
    data_digest: str
    """Digest of the encoded examples."""
    versions: dict[str, str]
    """python, nnsight_et, nnsight, torch, transformers."""
    device: str
    """Where it ran."""
    seconds: float
    """How long it took."""
    summary: dict[str, Any]
    """The method's headline numbers; null where a number does not exist."""
    self_check: SelfCheckRecord
    """What was measured twice."""
    probe: Literal["on", "off"] = "on"
    """Whether its models answered a few prompts first, to be told from chance; in the file only where it was off."""
    notices: tuple[Notice, ...] = ()
    """What to know before the numbers are read; in the file only where there is something."""
    scores_digest: str = ""
    """Digest of scores.safetensors; filled in when the result is written."""
    digest: str = ""
    """Digest of everything above; filled in when the result is written."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the file holds it, without `digest`."""
        silent = {name for name, said in (("notices", self.notices), ("probe", self.probe == "off")) if not said}
        unsaid = {"digest", "job", "self_check"} | silent
        data = self.model_dump(exclude=unsaid)
        return data | {"job": self.job.to_dict(), "self_check": self.self_check.to_dict()}


def folder_of(root: Path, plan: Plan) -> Path:
    """Where the results of a manifest's run are under `root`."""
    return root / plan.name / plan.digest


def read_header(folder: Path) -> ResultHeader:
    """The header of the result at `folder`; ResultError naming the file if it cannot be used."""
    path = folder / HEADER
    try:
        data = json.loads(path.read_bytes())
        json.dumps(data, ensure_ascii=False).encode()  # a ValueError for half a character, which nothing can show
        _check_schema(data, path)
        if digest({key: value for key, value in data.items() if key != "digest"}) != data.get("digest"):
            raise ResultError(
                f"{path}: damaged: its content does not match its digest; remove the folder and run again"
            )
        return ResultHeader.model_validate(data)
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}); accepted: a result") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{path}: not a result ({where}: {value_problem(first)})") from None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: not JSON ({error})") from None


def _check_schema(data: JsonValue, path: Path) -> None:
    """ResultError if plain data does not say that it is of SCHEMA."""
    schema = data.get("schema_version") if isinstance(data, dict) else None
    if type(schema) is int and schema == SCHEMA:
        return
    version = ""
    if type(schema) is int and schema > 0:
        version = f", of {'a later' if schema > SCHEMA else 'an earlier'} version of nnsight_et"
    raise ResultError(f"{path}: schema {str(schema)[:20]}{version}; accepted: {SCHEMA}")


def name_of(header: ResultHeader) -> str:
    """The experiment's name in its manifest."""
    return header.job.name


def models_of(header: ResultHeader) -> str:
    """The names of the models a result is about."""
    return ", ".join(dict.fromkeys(record.name for record in header.models))


def metric_of(header: ResultHeader) -> Metric:
    """What the scores of a result are of; the paper's metric, of a method that has no other."""
    return header.job.spec.metric if isinstance(header.job.spec, Scored) else DEFAULT_METRIC


def method_of(header: ResultHeader) -> str:
    """The experiment's method."""
    return header.job.spec.method
