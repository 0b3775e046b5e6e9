"""The examples in docstrings of the functions for notebooks give what is written under them."""

from __future__ import annotations

import doctest

import pytest

import nnsight_et as et

FUNCTIONS = ("attention_patterns", "attribution", "compare", "completeness", "minimality")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_in_a_docstring_gives_what_it_says(name: str):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(et, name), name)
    assert test.examples
    said: list[str] = []
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)
