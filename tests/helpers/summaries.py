"""Summaries in which only some keys matter: those that are lacking are filled in with values of the right kind."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from nnsight_et.methods import METHODS
from nnsight_et.results.headers import JobRecord, ModelRecord, ResultHeader, SelfCheckRecord
from nnsight_et.results.records import Record
from nnsight_et.results.summary import Summary


def summary_of(method: str, some: dict[str, Any]) -> Summary:
    """The method's summary with these keys, and what else it must have."""
    return METHODS[method].summary.model_validate(fill(METHODS[method].summary, some))


def header_of(method: str, summary: dict[str, Any], **spec: Any) -> ResultHeader:
    """The header of a result of `mine` with this summary; what its experiment says beside `spec` is of no account."""
    job = {
        "name": "mine",
        "spec": {"method": method, **SPECS[method], **spec},
        "needs": {},
        "task": {"kind": "boxes", "boxes": 7, "objects": None},
        "seed": 0,
        "engine": "default",
        "dtype": "float32",
        "attention": "sdpa",
        "models": [{"name": "llama-tiny", "dtype": "float32"}],
        "circuits": [],
    }
    return ResultHeader(
        job=JobRecord.model_validate(job),
        job_id="0",
        identity="1",
        models=[ModelRecord(name="llama-tiny", fingerprint="f", description="d")],
        data_digest="2",
        versions={"python": "3"},
        device="cpu",
        seconds=1.5,
        summary=summary,
        self_check=SelfCheckRecord(on=True, checks=[]),
    )


SPECS: dict[str, dict[str, Any]] = {
    "path_patching": {"model": "m", "stages": [{"group": "a", "into": "logits", "at": "last", "keep": 1}]},
    "faithfulness": {"circuit": "c", "models": ["m"]},
    "minimality": {"circuit": "c"},
    "completeness": {"circuit": "c"},
    "comparison": {"circuits": ["c", "d"]},
    "dcm": {"circuit": "c", "desiderata": ["object"]},
    "activation_patching": {"roles": "r", "models": ["m"]},
    "cmap": {"donor": "m", "recipient": "n", "circuit": "c"},
    "knockout": {"model": "m"},
    "attention_patterns": {"circuit": "c"},
    "attribution": {"model": "m"},
    "discovery": {"model": "m"},
}
"""What a manifest has to say of each method."""


def fill(kind: Any, some: Any) -> Any:
    """Plain data of the kind: what `some` has of it, and for the keys that are lacking empty or least values."""
    if isinstance(kind, type) and issubclass(kind, Record):
        return _record(kind, some)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is list and isinstance(some, list):
        return [fill(inside[0], one) for one in some]
    if origin is dict and isinstance(some, dict):
        return {key: fill(inside[1], one) for key, one in some.items()}
    if origin in (Union, UnionType) and some is not None:
        records = [one for one in inside if isinstance(one, type) and issubclass(one, Record)]
        return fill(records[0], some) if records and some else some
    return some


def _record(kind: type[Record], some: Any) -> Any:
    if not isinstance(some, dict):
        return some
    found = {}
    for name, field in kind.model_fields.items():
        key = field.serialization_alias or field.alias or name
        if key in some:
            found[key] = fill(field.annotation, some[key])
        elif field.is_required():
            found[key] = "L0H0" if key == "head" else _least(field.annotation)
    return found | {key: value for key, value in some.items() if key not in found}


def _least(kind: Any) -> Any:
    """The least value of a kind."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if NoneType in inside else _least(inside[0])
    if origin is Literal:
        return inside[0]
    if isinstance(kind, type) and issubclass(kind, Record):
        return _record(kind, {})
    return [None, None] if kind == list[float | None] else (origin or kind)()
