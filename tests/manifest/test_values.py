"""Messages about values are in our words: each kind of error that pydantic can raise for one of our models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import parse
from nnsight_et.manifest.experiments import METHODS
from nnsight_et.manifest.schema import Manifest
from nnsight_et.manifest.values import ACCEPTED, OUR_OWN, value_problem
from nnsight_et.methods import METHODS as RECORDS
from nnsight_et.results.headers import ResultHeader

LIMITS = {
    "ge": "greater_than_equal",
    "gt": "greater_than",
    "le": "less_than_equal",
    "lt": "less_than",
    "pattern": "string_pattern_mismatch",
}
KINDS = {
    "str": {"string_type", "string_unicode"},
    "int": {"int_type"},
    "float": {"float_type"},
    "bool": {"bool_type"},
    "literal": {"literal_error"},
    "tuple": {"tuple_type"},
    "list": {"list_type"},
    "dict": {"dict_type"},
    "model": {"model_type", "missing", "extra_forbidden"},
    "dataclass": {"dataclass_type", "missing", "unexpected_keyword_argument"},
    "tagged-union": {"union_tag_invalid", "union_tag_not_found"},
}
"""What pydantic may say of a value, by the type that its schema asks for."""
LAX = {"int": {"int_parsing", "int_from_float"}, "float": {"float_parsing"}, "bool": {"bool_parsing"}}
SILENT = {
    *("any", "default", "nullable", "union", "definitions", "definition-ref", "no-info", "always", "model-fields"),
    *("model-field", "dataclass-args", "dataclass-field", "function-after", "function-before", "function-wrap"),
}
"""Parts of a schema that raise nothing of pydantic's own."""
IN_A_TASK_OR_METHOD = {"union_tag_invalid", "union_tag_not_found", "missing", "extra_forbidden", "value_error"}
"""Kinds that have sentences of their own."""
PYDANTICS = re.compile(
    r"Input should|valid |unable to parse|validation|tuple|dictionary|instance|boolean|Field req|'ctx'"
)
STUDY = """\
name: study
task: {kind: boxes}
experiments:
  circuit:
    method: path_patching
    model: llama-tiny
    stages: [{group: movers, into: logits, at: last, keep: 8}]
"""


def nodes(schema: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    """Every part of a core schema that has a type."""
    if isinstance(schema, dict) and id(schema) not in seen:
        seen.add(id(schema))
        if isinstance(schema.get("type"), str):
            yield schema
        for key, part in schema.items():
            if key not in ("serialization", "metadata"):
                yield from nodes(part, seen)
    elif isinstance(schema, (list, tuple)):
        for part in schema:
            yield from nodes(part, seen)


def kinds_of(model: type[Any]) -> set[str]:
    """The kinds of error that pydantic may raise for data given to a model."""
    found = set[str]()
    for node in nodes(model.__pydantic_core_schema__, set()):
        kind = node["type"]
        assert kind in KINDS or kind in SILENT, f"which errors does a {kind} raise?"
        found |= KINDS.get(kind, set()) | {name for key, name in LIMITS.items() if key in node}
        found |= LAX.get(kind, set()) if not node.get("strict") else set()
        found |= {"finite_number"} if node.get("allow_inf_nan") is False else set()
        text = "string_" if kind == "str" else ""
        found |= {f"{text}too_short"} if "min_length" in node else set()
        found |= {f"{text}too_long"} if "max_length" in node else set()
    return found


SUMMARIES = [record.summary for record in RECORDS.values()]


@pytest.mark.parametrize("model", [Manifest, ResultHeader, *SUMMARIES], ids=lambda model: model.__name__)
def test_every_kind_of_error_of_a_model_has_our_words(model: type[Any]):
    ours = {*ACCEPTED, *OUR_OWN, *IN_A_TASK_OR_METHOD, "literal_error", "string_pattern_mismatch"}
    assert kinds_of(model) - ours - {"unexpected_keyword_argument"} == set()


WRONG = {
    "string_type": ("name: study", "name: 3", "name: found 3; accepted: text"),
    "string_unicode": (
        "stages:",
        'title: "\\ud83d"\n    stages:',
        "circuit.title: found '\\ud83d'; accepted: text without half",
    ),
    "string_too_short": (
        "stages:",
        "title: ''\n    stages:",
        "circuit.title: found ''; accepted: 1 or more characters",
    ),
    "string_too_long": ("stages:", f"title: {'a' * 121}\n    stages:", "accepted: at most 120 characters"),
    "string_pattern_mismatch": (
        "name: study",
        "name: -a",
        "accepted: 1 to 64 letters, digits, _ and -, beginning with a",
    ),
    "bool_type": ("stages:", "only_correct: 1\n    stages:", "only_correct: found 1; accepted: true or false"),
    "bool_parsing": (
        "method: path",
        "method: cmap\n    inputs: x\n    a: path",
        "circuit.inputs: found 'x'; accepted: true or",
    ),
    "int_type": ("keep: 8", "keep: 8.5", "stages.0.keep: found 8.5; accepted: a whole number"),
    "float_type": ("keep: 8", "keep: 8, screen: {miss: x}", "screen.miss: found 'x'; accepted: a number"),
    "float_parsing": ("keep: 8", "keep: 8, screen: {tail: x}", "screen.tail: found 'x'; accepted: a number or any"),
    "finite_number": (
        "keep: 8",
        "keep: 8, screen: {tail: 1e999}",
        "screen.tail: found inf; accepted: a finite number or any",
    ),
    "greater_than": ("keep: 8", "keep: 8, screen: {miss: 0}", "screen.miss: found 0; accepted: more than 0"),
    "greater_than_equal": ("keep: 8", "keep: 0", "stages.0.keep: found 0; accepted: 1 or more"),
    "less_than": ("keep: 8", "keep: 8, screen: {miss: 1}", "screen.miss: found 1; accepted: less than 1"),
    "less_than_equal": ("keep: 8", "keep: 2000000", "stages.0.keep: found 2000000; accepted: at most 1000000"),
    "too_short": (
        "[{group: movers, into: logits, at: last, keep: 8}]",
        "[]",
        "stages: found a list of 0; accepted: 1 or more ent",
    ),
    "too_long": (
        "kind: boxes",
        f"kind: pairs, file: a, positions: [{', '.join(f'p{i}' for i in range(65))}]",
        "task.positions: found a list of 65; accepted: at most 64 entries",
    ),
    "tuple_type": (
        "stages: [",
        "reproduces: 3\n    stages: [",
        "circuit.reproduces: found 3; accepted: a list, such as [3]",
    ),
    "dict_type": (
        "name: study",
        "name: study\nmodels: 3",
        "models: found 3; accepted: a mapping such as {name: {path: ...}}",
    ),
    "model_type": (
        "{kind: boxes}",
        "{kind: pairs, file: a, columns: 3}",
        "task.columns: found 3; accepted: a mapping such as",
    ),
    "literal_error": ("name: study", "name: study\nengine: slow", "engine: found 'slow'; accepted: default, reference"),
    "missing": ("    model: llama-tiny\n", "", "circuit.model: missing; it is required"),
    "extra_forbidden": ("name: study", "name: study\nnome: b", "nome: no key 'nome' here; did you mean 'name'?"),
    "union_tag_invalid": (
        "method: path_patching",
        "method: patch",
        "circuit.method: no method 'patch'; accepted: path_patching",
    ),
    "union_tag_not_found": ("    method: path_patching\n", "", "circuit.method: missing; accepted: path_patching"),
}


def test_the_examples_below_are_of_every_kind_that_a_manifest_can_raise():
    assert set(WRONG) == kinds_of(Manifest) - {"int_parsing", "int_from_float"}


@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_of_each_kind_is_described_in_our_words(kind: str):
    old, new, expected = WRONG[kind]
    assert old in STUDY
    with pytest.raises(ManifestError) as raised:
        parse(STUDY.replace(old, new, 1), "study.yaml")
    assert expected in str(raised.value)
    assert not PYDANTICS.search(str(raised.value))


@pytest.mark.parametrize(
    ("models", "accept"),
    [
        ("{mine: {path: a, ndif: b}}", "models.mine.ndif: found 'b'; accepted: a hub id, such as org/name"),
        ("{mine: {path: a, gguf: b}}", "models.mine.gguf: found 'b'; accepted: a file whose name ends in .gguf"),
        ("{}\ndevice: gpu", "device: found 'gpu'; accepted: auto, cpu, cuda, cuda:<number> or balanced"),
    ],
)
def test_what_a_pattern_accepts_is_described_by_what_it_is(models: str, accept: str):
    with pytest.raises(ManifestError) as raised:
        parse(STUDY.replace("name: study", f"name: study\nmodels: {models}"), "study.yaml")
    assert accept in str(raised.value)


@pytest.mark.parametrize("summary", SUMMARIES, ids=lambda model: model.__name__)
def test_a_summary_without_its_keys_lacks_them_in_our_words(summary: type[Any]):
    with pytest.raises(ValidationError) as raised:
        summary.model_validate({"rows": 3, "extra": 1})
    assert all(not PYDANTICS.search(value_problem(details)) for details in raised.value.errors())


def test_each_method_is_there():
    assert set(METHODS) == set(RECORDS)
