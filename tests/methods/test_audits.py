"""What a run derives again: every number and choice of every summary, and every score, changed, is noticed."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from typing import Any

import pytest
import torch

from nnsight_et.core.errors import ResultError
from nnsight_et.measuring import checks
from nnsight_et.measuring.audit import differences
from nnsight_et.measuring.checks import RECOUNT, check_output
from nnsight_et.measuring.context import MethodOutput
from nnsight_et.measuring.evidence import Evidence
from nnsight_et.methods import METHODS
from tests.helpers.methods_study import EVERYTHING, models_in, steps

MORE = """\
  kl:
    method: path_patching
    model: one
    metric: kl
    examples: 6
    stages: [{group: a, into: logits, at: last, keep: 3}]
  shares:
    method: path_patching
    model: one
    metric: probability_difference
    examples: 6
    held_out_examples: 4
    only_correct: true
    stages: [{group: a, into: logits, at: last, keep: 4}]
  resampled:
    {method: faithfulness, circuit: found, models: [one], examples: 6, ablation_examples: 5, ablation: resample}
"""


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> dict[str, Evidence[Any, Any]]:
    """By experiment what its audit was given, in a run of every method."""
    found: dict[str, Evidence[Any, Any]] = {}

    def keep(job, scores, summary, context):
        kept = copy.copy(context)
        kept.measured, kept.trained = dict(context.measured), dict(context.trained)
        found[job.name] = Evidence(job, scores, summary, kept)
        return found[job.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "Evidence", keep)
        steps(models_in(tmp_path_factory.mktemp("audits")), EVERYTHING + MORE, "probe=off")
    return found


NAMES = [*re.findall(r"^  (\w+):", EVERYTHING, re.MULTILINE), *re.findall(r"^  (\w+):", MORE, re.MULTILINE)]


def worst(evidence: Evidence[Any, Any]) -> dict[str, float]:
    """The largest gap of each check."""
    gaps: dict[str, float] = {}
    for found in METHODS[evidence.job.spec.method].experiment().audit(evidence):
        gaps[found.check] = max(found.gap, gaps.get(found.check, 0.0))
    return gaps


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_is_found_right(evidence, name):
    gaps = worst(evidence[name])
    assert {"decisions", "recount"} <= set(gaps)
    assert max(gaps.values()) <= RECOUNT
    if name != "overlap":
        assert {"asked", "splits", "examples"} <= set(gaps)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every number, name and list in plain data."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        yield path
        for index, one in enumerate(value):
            yield from leaves(one, (*path, index))
    else:
        yield path


def changed(value: Any) -> Any:
    """Something else of the same type, if it has one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return value[:-1] if value else ["L0H0"]
    if isinstance(value, str):
        return f"{value}x"
    return 0.25 if value is None or isnan(value) else value + 1 if isinstance(value, int) else value - 0.01


@pytest.mark.parametrize("name", NAMES)
def test_every_number_and_choice_of_a_summary_is_derived_again(evidence, name, monkeypatch):
    """One of each kind: of rows and intervals the last."""
    audit = importlib.import_module(f"nnsight_et.methods.{evidence[name].job.spec.method}.audit")
    held: list[tuple[Any, ...]] = []
    monkeypatch.setattr(audit, "differences", lambda *given: held.append(given) or differences(*given))
    worst(evidence[name])
    right = evidence[name].summary.to_dict()
    ((_, expected),) = [given[:2] for given in held if given[0] == right]
    places = {tuple("" if isinstance(key, int) else key for key in path): path for path in leaves(right)}
    assert len(places) > 5
    missed = []
    for path in places.values():
        wrong = copy.deepcopy(right)
        here = wrong
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = changed(here[path[-1]])
        if max(one.gap for one in differences(wrong, expected)) <= RECOUNT:
            missed.append(path)
    assert missed == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "overlap"])
def test_every_score_is_derived_again(evidence, name):
    missed = []
    for key, tensor in evidence[name].scores.items():
        flat = tensor.clone().flatten()
        if not flat.numel():
            continue
        flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1].nan_to_num(0.0) + 1
        wrong = {**evidence[name].scores, key: flat.reshape(tensor.shape)}
        if max(worst(replace(evidence[name], scores=wrong)).values()) <= RECOUNT:
            missed.append(key)
    assert missed == []


def test_a_summary_that_cannot_be_derived_again_is_a_fault_of_ours_and_no_difference(evidence):
    """Of a result that lacks what it was decided by there is nothing to check."""
    found = evidence["found"]
    output = MethodOutput({}, found.summary, "")
    with pytest.raises(KeyError, match="value_fetcher") as raised:
        check_output(found.context, found.job, output, METHODS["path_patching"].experiment().audit)
    (note,) = raised.value.__notes__
    assert note.startswith("experiments.found: its result could not be derived again, and was not written")


def test_an_earlier_result_that_is_damaged_by_now_is_named(evidence):
    path = evidence["table"].context.folder / "found" / "result.json"
    whole = path.read_bytes()
    try:
        for wrong in (b"{", whole.replace(b"value_fetcher", b"value_fetchex"), b"[]"):
            path.write_bytes(wrong)
            with pytest.raises(ResultError, match=r"found/result\.json: "):
                evidence["table"].circuit("found")
    finally:
        path.write_bytes(whole)


def test_an_accuracy_that_no_number_of_validation_pairs_gives_is_told(evidence, monkeypatch):
    """A mean over batches of different sizes, for example."""
    audit = importlib.import_module("nnsight_et.methods.dcm.audit")
    trained = audit.trained_findings

    def off(*given):
        found = yield from trained(*given)
        return [tensors | {"accuracies": tensors["accuracies"] * 0.9 + 0.02} for tensors in found]

    monkeypatch.setattr(audit, "trained_findings", off)
    told = [one.where for one in audit.audit_output(evidence["masks"]) if one.gap > RECOUNT]
    assert any("accuracies are no shares" in where for where in told)


def test_a_validation_too_many_is_told(evidence, monkeypatch):
    audit = importlib.import_module("nnsight_et.methods.dcm.audit")
    trained = audit.trained_findings

    def more(*given):
        found = yield from trained(*given)
        again = ("masks", "accuracies")
        return [tensors | {key: torch.cat([tensors[key], tensors[key][-1:]]) for key in again} for tensors in found]

    monkeypatch.setattr(audit, "trained_findings", more)
    told = [one.where for one in audit.audit_output(evidence["masks"]) if one.gap > RECOUNT]
    assert any("how often masks are validated" in where for where in told)
