"""The seeded faults: each can be put in; a run's self-check finds nearly all, the tests find all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from . import faults, faults_strangers
from .faults import FAULTS, problems
from .runner import outcomes
from .seeded import AT_RUN_TIME, tried

FEW = ("query heads share key heads round robin", "the patching score")
SHARE = 0.95


def test_every_fault_can_be_put_in_and_every_kind_is_at_two_places_or_more():
    assert problems() == []
    assert len(FAULTS) >= 40


def test_every_fault_out_of_sample_can_be_put_in():
    assert faults_strangers.problems() == []
    for found in faults_strangers.SETS.values():
        decisions = [fault for fault in found if fault.kind == faults_strangers.DECISION]
        assert len(found) >= 24
        assert len(decisions) >= len(found) / 2


def test_a_text_that_is_not_there_once_is_refused(monkeypatch):
    monkeypatch.setattr(faults, "FAULTS", [replace(FAULTS[0], old="import"), *FAULTS[1:]])
    assert any("times, not once" in problem for problem in problems())


def test_a_fault_of_the_model_and_one_of_a_method_are_found_by_a_run():
    chosen = [fault for fault in FAULTS if fault.name in FEW]
    for bench_run in outcomes(chosen, lambda bench, fault: bench.exercise(fault.change, fault.exercise), 1):
        assert bench_run.caught in AT_RUN_TIME


@pytest.mark.slow
def test_the_self_check_finds_nearly_all_faults_and_the_tests_find_all():
    found = list(tried(FAULTS, 1))
    assert [one.fault.name for one in found if not one.tests.caught] == []
    missed = [one.fault.name for one in found if one.run.caught not in AT_RUN_TIME]
    assert len(missed) <= (1 - SHARE) * len(FAULTS), missed
