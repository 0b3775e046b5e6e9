from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsight_et.core.errors import ManifestError
from nnsight_et.manifest import parse
from nnsight_et.manifest.document import SIZE_LIMIT, read
from tests.manifest.test_manifest import TEXT


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x 1\nb: *x\n", "e.yaml:1: a: the alias or anchor 'x'"),
        ("a: 1\nb: 2\na: 3\n", "e.yaml:3: a: this key appears twice; accepted: each key once"),
        ("a:\n  b: 1\n   c: 2\n", "e.yaml:3: not YAML: a second ': ', or a key that does not belong to the line above"),
        ("a:\n  b: 1\n c: 2\n", "e.yaml:3: not YAML: an entry that is not aligned with those above it; accepted: keys"),
        ("a:\n\tb: 1\n", "e.yaml:2: not YAML: a tab; accepted: spaces"),
        ("a: 1\nb 2\nc: 3\n", "e.yaml:2: not YAML: a line without ':'; accepted: key: value"),
        ('a: "b\nc: d\n', "e.yaml:1: not YAML: a quoted text that is not closed; accepted: the same quotation mark"),
        ("a: @b\n", "e.yaml:1: not YAML: a text that begins with @; accepted: quotes around it"),
        ("a: {b: 1\nc: 2", "e.yaml:1: not YAML: a list or mapping that is not closed; accepted: '}' at its end"),
        ("a: 1\nb: !!python/name:os.system x\n", "e.yaml:2: b: the tag"),
        ("%YAML 1.1\n---\na: 1\n", "e.yaml:1: a % directive".replace("1", "2", 1)),
        ("a: 1\n---\nb: 1\n", "e.yaml:2: a second document"),
        ("a: 1\n3: b\n", "e.yaml:2: a key that is not text (3)"),
        ("a: 1\n[b]: c\n", "e.yaml:2: a key that is not text"),
        ("a: [1, 2\nb: 3\n", "e.yaml:1: not YAML: a list or mapping that is not closed; accepted: ']' at its end"),
        ("a: \x07\n", "not YAML: special characters; accepted: printable text"),
        ("a: " + "[" * 100 + "\n", "nested deeper than 32 levels"),
        ("a: " + "x" * SIZE_LIMIT, f"accepted: at most {SIZE_LIMIT}"),
        ("", "not a manifest"),
        ("- 1\n", "not a manifest"),
    ],
)
def test_yaml_beyond_the_plain_part_is_refused_by_line(text, part):
    with pytest.raises(ManifestError) as raised:
        parse(text, "e.yaml")
    assert part in str(raised.value)


def test_scalars_are_those_of_yaml_1_2():
    data = read("[no, 012, 1e3, ~, 'true', true, 2001-01-01, 1_000]", "e.yaml").data
    assert data == ["no", 12, 1000.0, None, "true", True, "2001-01-01", "1_000"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_manifest_is_accepted_or_refused_by_a_manifest_error(data):
    lines = TEXT.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        cut = data.draw(st.integers(0, len(line)))
        pieces = st.sampled_from(
            ["", ":", "- ", "{", "}", "[", "]", "'", "*a", "&a ", "!x ", "~", "9" * 30, "-1", ".nan", "\t", "é"]
        )
        lines[index] = (
            line[:cut] + data.draw(pieces | st.text(max_size=4)) + line[data.draw(st.integers(cut, len(line))) :]
        )
    try:
        parse("\n".join(lines), "fuzz.yaml")
    except ManifestError as error:
        message = str(error)
    else:
        return
    assert message.startswith("fuzz.yaml")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_value_anywhere_is_accepted_or_refused_by_a_manifest_error(data):
    document = read(TEXT, "fuzz.yaml")
    paths = [path for path in document.places if path]
    path = data.draw(st.sampled_from(paths))
    here = document.data
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = data.draw(VALUES)
    try:
        parse(json.dumps(document.data), "fuzz.yaml")
    except ManifestError as error:
        message = str(error)
    else:
        return
    assert message.startswith("fuzz.yaml")


def test_a_key_that_utf8_cannot_write_is_named():
    with pytest.raises(ManifestError, match=r"^x.yaml:1: found '\\ud83d\\ude00'; accepted: text"):
        parse('name: x\n"\\ud83d\\ude00": 1\nexperiments: {}\n', "x.yaml")
