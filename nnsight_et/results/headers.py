"""What results say of themselves: result.json, which is read without torch, and the folder it lies in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from nnsight_et.core.errors import ResultError
from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric
from nnsight_et.core.notices import Notice
from nnsight_et.planning.plan import Plan, digest

HEADER = "result.json"
SCHEMA = 2
"""Of result.json and of the names in scores.safetensors. Raised when either says more or less."""


class ModelRecord(BaseModel):
    """A model as it was used."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    fingerprint: str
    """Digest of its files."""
    description: str
    """Where it came from."""


class ResultHeader(BaseModel):
    """What result.json holds: how a result was made, and its headline numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: Literal[2] = SCHEMA
    job: dict[str, Any]
    """The experiment with every default (Job.to_dict)."""
    job_id: str
    """Job.id: the digest of what the manifest asked for."""
    identity: str
    """Digest of what was computed: the job and the fingerprints of models and data."""
    models: list[ModelRecord]
    data_digest: str
    """Digest of the encoded examples."""
    versions: dict[str, str]
    """python, nnsight_et, nnsight, torch, transformers."""
    device: str
    seconds: float
    summary: dict[str, Any]
    """The method's headline numbers; null where a number does not exist."""
    self_check: dict[str, Any]
    """Whether it was on, how long it took, and each check: its name, the worst difference, and the one accepted."""
    probe: Literal["on", "off"] = "on"
    """Whether its models answered a few prompts first, to be told from chance; in the file only where it was off."""
    notices: tuple[Notice, ...] = ()
    """What to know before the numbers are read; in the file only where there is something."""
    scores_digest: str = ""
    """Digest of scores.safetensors; filled in when the result is written."""
    digest: str = ""
    """Digest of everything above; filled in when the result is written."""


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
            raise ResultError(f"{path}: damaged: its digest is not the one in it; remove the folder and run again")
        return ResultHeader.model_validate(data)
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}); accepted: a result") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{path}: not a result ({where}: {first['msg']})") from None
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
    return str(header.job.get("name"))


def models_of(header: ResultHeader) -> str:
    """The names of the models a result is about."""
    return ", ".join(dict.fromkeys(record.name for record in header.models))


def metric_of(header: ResultHeader) -> Metric:
    """What the scores of a result are of; a job that does not say has the paper's metric."""
    return header.job.get("spec", {}).get("metric", DEFAULT_METRIC)


def method_of(header: ResultHeader) -> str:
    """The experiment's method."""
    return str(header.job.get("spec", {}).get("method"))
