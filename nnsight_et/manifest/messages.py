"""pydantic's findings -> our sentences: where, what was found, what is accepted."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import KeyPath, Problem
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.schema import TASKS, Manifest
from nnsight_et.manifest.written import SpecModel

NAMES = "1 to 64 letters, digits, _ and -, the first a letter or a digit"
_INPUT_SHOULD = re.compile(r"^(Input|String|Tuple|Dictionary|Value) should (be|have|match) ")


def problems(error: ValidationError, data: Any) -> Iterator[Problem]:
    """Each finding about `data`, at the path where the user wrote it."""
    for details in error.errors(include_url=False):
        path = _written_path(details["loc"], data)
        kind = details["type"]
        if kind == "too_short" and len(details["input"]) >= details.get("ctx", {}).get("min_length", 0):
            continue  # entries that are told of by themselves were not counted
        if kind == "missing":
            yield Problem(path, "missing; it is required")
        elif kind == "extra_forbidden":
            key, fields = str(path[-1]), _class_at(details["loc"][:-1]).model_fields
            yield Problem(path, f"no key {key!a} here; {accepted_names(key, fields)}")
        elif path == ("task",) and kind.startswith("union_tag"):
            yield _no_task(details["input"])
        elif kind == "union_tag_not_found":
            yield Problem((*path, "method"), f"missing; accepted: {', '.join(METHODS)}")
        elif kind == "union_tag_invalid":
            tag = str(details.get("ctx", {}).get("tag"))
            yield Problem((*path, "method"), f"no method {tag[:60]!a}; {accepted_names(tag, METHODS)}")
        elif path == ("memory",) and kind == "string_type":
            yield Problem(path, f"found {_shown_value(details['input'])}; accepted: a size with its unit, such as 4GiB")
        else:
            yield Problem(path, _sentence(details))


def _no_task(found: Any) -> Problem:
    kind = found.get("kind") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        return Problem(
            ("task",), f"found {_shown_value(found)}; accepted: a mapping whose kind is one of {', '.join(TASKS)}"
        )
    return Problem(("task", "kind"), f"found {_shown_value(kind)}; {accepted_names(kind[:60], TASKS)}")


def _sentence(details: ErrorDetails) -> str:
    kind, found, message = details["type"], _shown_value(details["input"]), details["msg"]
    if kind in ("boxes", "positions", "name", "memory"):
        return message
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", ""))
        return f"found {found}; {accepted_names(str(details['input'])[:60], names)}"
    if kind == "string_pattern_mismatch":
        pattern = details.get("ctx", {}).get("pattern", "")
        if pattern.endswith(r":[A-Za-z_]\w*$"):
            return f"found {found}; accepted: a module and a class in it, such as my_package.module:Task"
        if pattern.startswith("^[A-Za-z_]"):
            return f"found {found}; accepted: a name of letters, digits and _, no digit first"
        return f"found {found}; accepted: {'auto, cpu, cuda or cuda:<number>' if 'cuda' in pattern else NAMES}"
    wanted = _INPUT_SHOULD.sub(_verb, message)
    wanted = re.sub(r" or instance of \w+$", "", wanted).replace("a valid ", "a ").replace("a integer", "an integer")
    return f"found {found}; accepted: {wanted.replace('dictionary', 'mapping').replace('tuple', 'list')}"


def _verb(match: re.Match[str]) -> str:
    return "" if match[2] == "be" else f"{match[2]} "


def _shown_value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    return "nothing" if value is None else ascii(value)[:60]


def _written_path(location: tuple[str | int, ...], data: Any) -> KeyPath:
    """pydantic's location without what nobody wrote: a union's tag and the mark of a bad key."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
            path.append(part)
        elif index == len(location) - 1 and not str(part).startswith("["):
            path.append(part)
    return tuple(path)


def _holds(data: object, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _class_at(location: tuple[str | int, ...]) -> type[SpecModel]:
    """The manifest's class that a location points at."""
    here: Any = Manifest
    for part in location:
        here = _member(here, part)
    return here


def _member(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, SpecModel):
        kind = kind.model_fields[str(part)].annotation
        return _without_none(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _member(arguments[0], part)
    if origin in (types.UnionType, Union):
        return TASKS[str(part)[1:-1]] if str(part).startswith("[") else METHODS[str(part)]
    return arguments[1] if origin is dict else arguments[0]


def _without_none(kind: Any) -> Any:
    chosen = [argument for argument in get_args(kind) if argument is not types.NoneType]
    return chosen[0] if get_origin(kind) in (types.UnionType, Union) and len(chosen) == 1 else kind
