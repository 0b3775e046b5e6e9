"""From text, and the --set options beside it, to a Manifest. Every problem found is in one ManifestError."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nnsight_et.core.errors import ManifestError, accepted_names
from nnsight_et.manifest import checks
from nnsight_et.manifest.document import SIZE_LIMIT, Document, KeyPath, Problem, dotted_path, read
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.schema import TASKS, Manifest
from nnsight_et.manifest.values import shown_value, value_problem
from nnsight_et.manifest.written import SpecModel

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.yaml"))}
"""The manifests that come with the package, by the names that stand for them."""


def load(path: Path, settings: Sequence[str] = ()) -> Manifest:
    """The manifest in the file `path`, with `settings` (each key.path=value) in place of what it says there.

    `demo`, `tiny`, `paper` and `real` are the shipped ones, where there is no file of that name.
    """
    path = path if path.exists() else SHIPPED.get(str(path), path)
    return parse(_text(path), path.name, settings, folder=path.parent)


def parse(
    text: str,
    where: str,
    settings: Sequence[str] = (),
    lines: bool = True,
    folder: Path | None = None,
    options: Mapping[KeyPath, str] | None = None,
) -> Manifest:
    """The manifest written in `text`; `where` names the text in messages, with `lines` numbered or not.

    Relative paths in it start in `folder`, or in the working directory. options: which of a command's options the
    values at some keys come from. A setting is key.path=value, or --option=value of a key at the top.
    """
    document = read(text, where, lines)
    document.options = dict(options or {})
    if not isinstance(document.data, dict):
        raise ManifestError(f"{where}: this is not a manifest; accepted: a mapping with name, experiments, ...")
    for setting in settings:
        _apply(document, setting)
    try:
        manifest = Manifest.model_validate(document.data)
    except ValidationError as error:
        found = _problems(error, document.data)
        raise document.error((*found, *_further_problems(document, found, folder))) from None
    given = {path: name for path, name in document.options.items() if document.places.get(path) == document.where}
    manifest = manifest.in_folder(folder or Path(), document.places, given).with_data(document.data)
    if problems := tuple(checks.problems(manifest)):
        raise document.error(problems)
    return manifest


def _further_problems(document: Document, found: Sequence[Problem], folder: Path | None) -> Iterator[Problem]:
    """Further mistakes that show even without the parts that these problems are about."""
    data = deepcopy(document.data)
    if not all(_delete(data, path) for path in {problem.path for problem in found}):
        return
    unread = set[object]()  # experiments that cannot be read without the keys that are gone
    try:
        Manifest.model_validate(data)
    except ValidationError as error:
        unread = {path[1] for path in (_written_path(one["loc"], data) for one in error.errors()) if len(path) > 1}
        for name in unread:
            _delete(data, ("experiments", str(name)))
    try:
        manifest = Manifest.model_validate(data).in_folder(folder or Path(), document.places).with_data(data)
    except ValidationError:
        return
    about = {problem.path[:-1] for problem in found}  # there something may be wrong for want of these keys alone
    for problem in checks.problems(manifest):
        if about.isdisjoint((problem.path, problem.path[:-1])) and str(_value_at(data, problem.path)) not in unread:
            yield problem


def _delete(data: Any, path: KeyPath) -> bool:
    """Take a key out of its mapping; whether there was one."""
    parent = _value_at(data, path[:-1]) if path else None  # of a key that is no text it is not said where it is
    return isinstance(parent, dict) and parent.pop(path[-1], None) is not None


def _value_at(data: Any, path: KeyPath) -> Any:
    """What is at a path; None where there is nothing."""
    for part in path:
        if not _holds(data, part):
            return None
        data = data[part]
    return data if isinstance(data, (str, dict, list)) else None


def _text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > 4 * SIZE_LIMIT:
            raise ManifestError(f"{path}: {path.stat().st_size} bytes; accepted: at most {SIZE_LIMIT} characters")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not text in UTF-8 (byte {error.start}); accepted: a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        beside = _manifests_like(path) if isinstance(error, FileNotFoundError) else []
        known = f"{accepted_names(str(path), (*SHIPPED, *beside))}, or a manifest's file"
        raise ManifestError(f"{path}: cannot be read ({reason}); {known}") from None


def _manifests_like(path: Path) -> list[str]:
    """The file in its folder that may have been meant."""
    beside = [str(one) for one in path.parent.glob("*.y*ml")]
    return [name for name in get_close_matches(str(path), beside, n=1) if name.isprintable()]


def _apply(document: Document, setting: str) -> None:
    key, equals, text = setting.partition("=")
    where = f"--set {ascii(setting[:80])[1:-1]}"
    if key.startswith("--"):
        where = f"{key} {ascii(text[:80])[1:-1]}"
        key = key.removeprefix("--").replace("-", "_")
    if not equals or not key:
        raise ManifestError(
            f"{where}: not a setting; accepted: key.path=value, such as experiments.circuit.examples=30"
        )
    document.set(_path(document, key, where), read(text, where, lines=False))


def _path(document: Document, key: str, where: str) -> KeyPath:
    """What `key` points at in the document; its last part may be new, and so may a mapping at the top or a model."""
    here, path = document.data, ()
    *parents, last = key.split(".")
    for part in parents:
        may_be_new = path == ("models",) or (not path and part in Manifest.model_fields)
        if may_be_new and isinstance(here, dict) and part not in here:
            document.set((*path, part), Document(where, {}))
        path = (*path, _step(here, part, path, where))
        here = here[path[-1]]
    if isinstance(here, list):
        return (*path, _step(here, last, path, where))
    if not isinstance(here, dict):
        raise ManifestError(
            f"{where}: {dotted_path(path)} is neither a mapping nor a list; accepted: {dotted_path(path)}=value"
        )
    return (*path, last)


def _step(here: object, part: str, path: KeyPath, where: str) -> str | int:
    """The key or index that `part` means in `here`."""
    if isinstance(here, dict) and part in here:
        return part
    if isinstance(here, list):
        if part.isdecimal() and len(part) < 10 and int(part) < len(here):
            return int(part)
        raise ManifestError(f"{where}: no entry {part} in {dotted_path(path)}; accepted: 0 to {len(here) - 1}")
    keys = here if isinstance(here, dict) else ()
    raise ManifestError(
        f"{where}: no key '{part}' in {dotted_path(path) or 'the manifest'}; {accepted_names(part, keys)}"
    )


CONTAINERS = ("model_type", "model_attributes_type", "dict_type", "tuple_type", "list_type")
"""pydantic's kinds of error where a mapping or a list is wanted."""
DICTIONARIES = {
    "find": "subject: '[A-Z][a-z]+'",
    "main_role": "value_fetcher: object",
}
"""Examples of mappings whose keys are names."""
_UNION_MEMBER = re.compile(r"constrained-\w+|literal\[.*\]|float|int|str|bool")
"""pydantic's names of what a value may be, where it may be one of several things."""


def _problems(error: ValidationError, data: Any) -> list[Problem]:
    """Each finding about `data`, at the path where the user wrote it; one for a value that may be several things."""
    found: list[Problem] = []
    for problem in _each_problem(error, data):
        said, _, accept = problem.text.partition("; accepted: ")
        if found and accept and problem.path == found[-1].path and found[-1].text.startswith(f"{said}; "):
            found[-1] = Problem(problem.path, f"{found[-1].text} or {accept}")
        else:
            found.append(problem)
    return found


def _each_problem(error: ValidationError, data: Any) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        path = _written_path(details["loc"], data)
        kind = details["type"]
        if kind == "too_short" and len(details["input"]) >= details.get("ctx", {}).get("min_length", 0):
            continue  # entries with an error of their own were not counted
        if kind == "extra_forbidden":
            key, fields = str(path[-1]), _class_at(details["loc"][:-1]).model_fields
            yield Problem(path, f"no key {key!a} here; {accepted_names(key, fields)}")
        elif path == ("task",) and kind.startswith("union_tag"):
            yield _no_task(details["input"])
        elif kind == "union_tag_not_found":
            yield Problem((*path, "method"), f"missing; accepted: {', '.join(METHODS)}")
        elif kind == "union_tag_invalid":
            tag = str(details.get("ctx", {}).get("tag"))
            yield Problem((*path, "method"), f"no method {tag[:60]!a}; {accepted_names(tag, METHODS)}")
        elif path[-1:] == ("circuit",) and kind == "string_type":
            accept = (
                "the name of an experiment, a .json file with the heads, or a shipped circuit such as published/goat"
            )
            yield Problem(path, f"found {shown_value(details['input'])}; accepted: {accept}")
        elif path == ("memory",) and kind == "string_type":
            yield Problem(path, f"found {shown_value(details['input'])}; accepted: a size with its unit, such as 4GiB")
        elif kind in CONTAINERS:
            yield Problem(path, f"found {shown_value(details['input'])}; accepted: {_container(details)}")
        else:
            yield Problem(path, value_problem(details))


def _container(details: ErrorDetails) -> str:
    """The mapping or list that is accepted at a location, with an example."""
    location, found = details["loc"], details["input"]
    if location[:1] == ("experiments",) and len(location) <= 2:
        names = "{name: {method: ...}}" if len(location) == 1 else "{method: ...}"
        return f"a mapping such as {names}; methods: {', '.join(METHODS)}"
    kind: Any = _class_at(location)
    if _is_spec(kind):
        return f"a mapping such as {_example(kind)}; keys: {', '.join(kind.model_fields)}"
    held = get_args(kind)
    if get_origin(kind) is dict:
        inside = _example(held[1]) if _is_spec(held[1]) else "..."
        return f"a mapping such as {{{DICTIONARIES.get(str(location[-1]), f'name: {inside}')}}}"
    if held and _is_spec(held[0]):
        return f"a list of mappings, such as [{_example(held[0])}]"
    return f"a list, such as [{found}]" if re.fullmatch(r"[\w.][\w./ -]{0,40}", str(found)) else "a list"


def _is_spec(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, SpecModel)


def _example(kind: type[SpecModel]) -> str:
    """A mapping of this class as one would write it: what it must have, or its first key."""
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    if needed:
        return "{" + ", ".join(f"{name}: ..." for name in needed) + "}"
    name, field = next(iter(kind.model_fields.items()))
    return f"{{{name}: {'...' if field.default in (None, name) else field.default}}}"


def _no_task(found: Any) -> Problem:
    kind = found.get("kind") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        return Problem(
            ("task",), f"found {shown_value(found)}; accepted: a mapping whose kind is one of {', '.join(TASKS)}"
        )
    return Problem(("task", "kind"), f"found {shown_value(kind)}; {accepted_names(kind[:60], TASKS)}")


def _written_path(location: tuple[str | int, ...], data: Any) -> KeyPath:
    """pydantic's location without what nobody wrote: a union's tag or member, and the mark of a bad key."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        if _holds(data, part):
            data = data[part]
            path.append(part)
        elif index == len(location) - 1 and not str(part).startswith("[") and not _UNION_MEMBER.fullmatch(str(part)):
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
