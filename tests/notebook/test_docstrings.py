"""The examples in docstrings of the functions for notebooks give what is written under them."""

from __future__ import annotations

import doctest
from operator import attrgetter

import pytest

import nnsight_et as et

EXPLAINED = sorted(name for name in et.__all__ if ">>>" in (getattr(et, name).__doc__ or ""))
RETURNED = {"Finding", "Graph", "ImportedCircuit", "Overlap", "PatchingScores", "Selection"}
"""What functions return; their examples show it."""
OTHERS = ("Finding.save", "Pairs.of")


def test_every_name_has_an_example():
    assert set(et.__all__) - RETURNED == set(EXPLAINED)


@pytest.mark.parametrize("name", [*EXPLAINED, *OTHERS])
def test_the_example_in_a_docstring_gives_what_it_says(name: str):
    (test,) = doctest.DocTestFinder(recurse=False).find(attrgetter(name)(et), name)
    assert test.examples
    said: list[str] = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append).failed == 0, "".join(said)
