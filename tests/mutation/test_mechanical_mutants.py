"""Mechanical mutants: of one text by hand, and whether the tests kill those that are drawn."""

from __future__ import annotations

import pytest

from . import mutants
from .coverage import TESTS
from .mechanical import every, tried
from .runner import ROOT
from .verdicts import verdict

TEXT = """\
def f(a: int, b=1):
    \"\"\"One.\"\"\"
    assert a > 0, "no"
    x = g(a, b, device=2)
    if a < b and not x:
        x[0] = a
    return x
"""


def test_the_mutants_of_a_small_text_are_those_by_hand():
    found = {(one.line, one.kind, one.before, one.after) for one in mutants.of_text("f.py", TEXT)}
    assert found == {
        (1, "constant", "1", "2"),
        (4, "swapped arguments", "g(a, b, device=2)", "g(b, a, device=2)"),
        (5, "boolean", "a < b and not x", "a < b or not x"),
        (5, "comparison", "a < b", "a <= b"),
        (5, "boolean", "not x", "x"),
        (6, "deleted statement", "x[0] = a", "pass"),
        (6, "constant", "0", "1"),
    }


def test_a_mutant_is_the_text_with_that_change_alone():
    (deleted,) = (one for one in mutants.of_text("f.py", TEXT) if one.kind == "deleted statement")
    assert deleted.change.text == TEXT.replace("x[0] = a", "pass")
    (comparison,) = (one for one in mutants.of_text("f.py", TEXT) if one.kind == "comparison")
    assert comparison.change.text == TEXT.replace("a < b", "(a <= b)")


def test_the_same_mutants_are_drawn_each_time_and_all_are_python():
    drawn = every()
    assert drawn == every()
    assert len(drawn) == len(set(drawn)) == 200
    for mutant in drawn:
        compile(mutant.change.text, mutant.file, "exec")


def test_every_file_of_engine_and_interventions_has_tests_to_try_its_mutants_with():
    there = {f"{folder}/{path.name}" for folder in mutants.FOLDERS for path in (ROOT / folder).glob("[!_]*.py")}
    assert there == set(TESTS)
    assert all((ROOT / "tests" / name).is_file() for names in TESTS.values() for name in names)


@pytest.mark.slow
def test_the_drawn_mutants_that_survive_are_judged_and_change_nothing_to_be_seen():
    survivors = [mutant for mutant, tests, _ in tried(every(), 1) if not tests.caught]
    open_ones = [str(one) for one in survivors if verdict(one.place, one.text.strip(), one.name).shows]
    assert open_ones == []
