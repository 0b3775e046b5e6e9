"""YAML text -> plain data that remembers its lines. The only file that knows YAML.

Accepted is the part of YAML 1.2 that can be read without surprises: mappings, lists, text, numbers, true/false, null.
Not anchors and aliases, tags, directives, repeated keys, keys that are not text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from nnsight_et.core.errors import ManifestError, quantity

SIZE_LIMIT = 1 << 20  # characters
DEPTH_LIMIT = 32
PROBLEMS_SHOWN = 20
KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUTH = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
MISTAKES = (
    (r"expected <block end>", "an entry that is not aligned with those above it", "keys in the same column"),
    (r"character '\\+t'", "a tab", "spaces, to indent and between words"),
    (r"could not find expected ':'", "a line without ':'", "key: value"),
    (r"mapping values are not allowed", "a second ': ', or a key that does not belong to the line above it",
     "key: value on each line, and quotes around a text that has ': ' in it"),
    (r"expected ',' or '([]}])'", "a list or mapping that is not closed", r"'\1' at its end"),
    (r"unexpected end of stream", "a quoted text that is not closed", "the same quotation mark at its end"),
    (r"character '([^\\])'", r"a text that begins with \1", "quotes around it"),
    (r"special characters", "special characters", "printable text"),
)  # fmt: skip
"""The parser's words for common mistakes, in ours, and what is accepted instead."""
OTHERWISE = "key: value, with lists and mappings indented by spaces"
BEGUN_THERE = ("could not find", "expected ',' or", "unexpected end of stream")
"""Mistakes that are where what they are in begins, and are found later."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Problem(NamedTuple):
    """Something a user must mend: where in the document, and what was found and what is accepted."""

    path: KeyPath
    text: str


def dotted_path(path: KeyPath) -> str:
    """The path as written in messages and in --set: experiments.circuit.stages.1.at."""
    return ".".join(str(part) if _PLAIN_KEY.fullmatch(str(part)) else ascii(part) for part in path)


@dataclass
class Document:
    """Plain data, and where each part of it was written."""

    where: str
    data: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)
    options: dict[KeyPath, str] = field(default_factory=dict)
    """The options of a command that values come from, where nobody wrote a key."""

    def error(self, problems: Iterable[Problem]) -> ManifestError:
        """One error that lists every problem in the order of the text, a line each."""
        found = list(dict.fromkeys(problems))
        shown = sorted(found[:PROBLEMS_SHOWN], key=lambda problem: self._order(problem.path))
        lines = [self._line(problem) for problem in shown]
        if len(found) > PROBLEMS_SHOWN:
            lines.append(f"{self.where}: and {quantity(len(found) - PROBLEMS_SHOWN, 'more problem')}")
        return ManifestError("\n".join(lines))

    def set(self, path: KeyPath, value: Document) -> None:
        """Put the value of another document at `path`, whose parent exists."""
        parent = self.data
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = value.data
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.places |= {(*path, *inner): value.where for inner in value.places} | {path: value.where}

    def _line(self, problem: Problem) -> str:
        place = self._place(problem.path)
        name = self._option(problem.path) if place == self.where else dotted_path(problem.path)
        if place.startswith("--") and not place.startswith("--set "):
            name = ""  # the option says it
        return ": ".join(part for part in (place, name, problem.text) if part)

    def _option(self, path: KeyPath) -> str:
        """The option that the value at `path` comes from, and what in it is meant; without one the path."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.options:
                inner = [part for part in path[end:] if isinstance(part, str)]
                return ".".join([self.options[path[:end]], *inner])
        return dotted_path(path)

    def _place(self, path: KeyPath) -> str:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.where)

    def _order(self, path: KeyPath) -> tuple[int, bool]:
        """What is missing from a mapping comes after all that is in it."""
        parent = path
        while parent and parent not in self.places:
            parent = parent[:-1]
        inside = [index for index, known in enumerate(self.places) if known[: len(parent)] == parent]
        return (inside[0], False) if parent == path else (inside[-1], True)


def read(text: str, where: str, lines: bool = True) -> Document:
    """The document written in `text`; ManifestError if it is not the YAML described above."""
    if len(text) > SIZE_LIMIT:
        raise ManifestError(f"{where}: {len(text)} characters; accepted: at most {SIZE_LIMIT}")
    reader = _Reader(where, YAML(typ="safe", pure=True).parse(text), lines)
    try:
        return reader.document()
    except MarkedYAMLError as error:
        raise reader.not_yaml(error) from None
    except YAMLError as error:  # such as a character that YAML does not allow
        place = getattr(error, "position", None)
        line = None if place is None else text.count("\n", 0, place)
        raise reader.error(line, _explained(_sentence(error))) from None


def _explained(said: str) -> str:
    """The parser's sentence in words of users, with what is accepted."""
    for pattern, found, accepted in MISTAKES:
        if match := re.search(pattern, said):
            return f"not YAML: {match.expand(found)}; accepted: {match.expand(accepted)}"
    return f"not YAML: {said}; accepted: {OTHERWISE}"


def _sentence(error: YAMLError) -> str:
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return ascii(" ".join(str(text).split()))[1:-1]


class _Reader:
    def __init__(self, where: str, events: Iterator[Event], lines: bool) -> None:
        self.result = Document(where)
        self.events = events
        self.lines = lines

    def document(self) -> Document:
        next(self.events)  # the stream's start
        if isinstance(start := next(self.events), DocumentStartEvent):
            if start.version or start.tags:
                raise self.error(start.start_mark.line, "a % directive; accepted: YAML 1.2 without directives")
            self.result.data = self._value(next(self.events), ())
            next(self.events)  # the document's end
            if isinstance(following := next(self.events), DocumentStartEvent):
                raise self.error(following.start_mark.line, "a second document; accepted: one")
        return self.result

    def error(self, line: int | None, text: str, path: KeyPath = ()) -> ManifestError:
        named = f"{dotted_path(path)}: " if path else ""
        return ManifestError(f"{self._place(line)}: {named}{text}")

    def not_yaml(self, error: MarkedYAMLError) -> ManifestError:
        """The parser's error with its line, and what is accepted there."""
        said = _sentence(error)
        at = error.context_mark if any(text in said for text in BEGUN_THERE) else None
        at = at or error.problem_mark or error.context_mark
        return self.error(at.line if at else None, _explained(said))

    def _place(self, line: int | None) -> str:
        return self.result.where if line is None or not self.lines else f"{self.result.where}:{line + 1}"

    def _value(self, event: Any, path: KeyPath) -> Any:
        line = event.start_mark.line
        self.result.places.setdefault(path, self._place(line))
        if len(path) > DEPTH_LIMIT:
            raise self.error(line, f"nested deeper than {DEPTH_LIMIT} levels; accepted: at most {DEPTH_LIMIT}")
        if isinstance(event, AliasEvent) or event.anchor:
            raise self.error(line, f"the alias or anchor {event.anchor!a}; accepted: values written out", path)
        if event.tag:
            raise self.error(line, f"the tag {event.tag!a}; accepted: values without tags", path)
        if isinstance(event, ScalarEvent):
            return event.value if event.style else scalar(event.value)
        return self._mapping(path) if isinstance(event, MappingStartEvent) else self._list(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            line = event.start_mark.line
            key = self._value(event, path) if isinstance(event, (ScalarEvent, AliasEvent)) else None
            if not isinstance(key, str):
                raise self.error(line, f"a key that is not text ({key!a}); accepted: a name", path)
            if key in entries:
                raise self.error(line, "this key appears twice; accepted: each key once", (*path, key))
            self.result.places[(*path, key)] = self._place(line)
            entries[key] = self._value(next(self.events), (*path, key))
        return entries


def scalar(text: str) -> str | int | float | bool | None:
    """What unquoted text means in YAML 1.2's core schema (without octal and hexadecimal numbers)."""
    if _NULL.fullmatch(text):
        return None
    if _TRUTH.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text
