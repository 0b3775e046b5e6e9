"""Methods at their edges: circuits without heads, names that are nearly right, numbers of the wrong kind."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest
import torch

from nnsight_et.core.errors import ManifestError, NnsightEtError
from nnsight_et.manifest import parse
from nnsight_et.methods.attribution.experiment import agreement
from nnsight_et.planning.plan import plan
from tests.helpers.methods_study import circuit, models_in, results, steps


def test_a_comparison_with_other_scores_is_another_job():
    text = """\
name: x
experiments:
  a: {method: path_patching, model: llama-tiny, stages: [{group: a, into: logits, at: last, keep: 2}]}
  b: {method: path_patching, model: goat-tiny, stages: [{group: a, into: logits, at: last, keep: 2}]}
  x: {method: comparison, circuits: [a, b]%s}
"""
    ids = {plan(parse(text % more, "x")).job("x").id for more in ("", ", scores: a", ", scores: b")}
    assert len(ids) == 3


def test_faithfulness_ablates_as_it_is_told(tmp_path):
    text = "  x: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 6, ablation: %s}\n"
    mean, zero = (results(models_in(tmp_path), text % one)["x"].scores for one in ("mean", "zero"))
    assert not torch.equal(mean["one.circuit.probability"], zero["one.circuit.probability"])


@pytest.mark.parametrize("groups", [[], [{"name": "a", "at": "last", "heads": []}]], ids=["no groups", "no heads"])
@pytest.mark.parametrize(
    "method",
    [
        "completeness, model: one, draws: 1, ablation_examples: 3",
        "completeness, model: one, draws: 0, ablation_examples: 3",
        "faithfulness, models: [one], ablation_examples: 3",
        "dcm, model: one, training_examples: 3, validation_examples: 3, test_examples: 3, epochs: 5",
        "cmap, donor: one, recipient: two, random_sets: 0",
    ],
    ids=lambda method: method.split(",")[0],
)
def test_a_circuit_without_heads_ends_with_a_result_or_one_message(tmp_path, method, groups):
    models_in(tmp_path)
    (tmp_path / "circuit.json").write_text(json.dumps({"schema": 1, "groups": groups}))
    count = "" if "dcm" in method else ", examples: 3"

    def stop(*_):
        raise TimeoutError("it does not end")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        steps(tmp_path, f"  x: {{method: {method}, circuit: ./circuit.json{count}}}\n")
    except NnsightEtError:
        pass
    finally:
        signal.alarm(0)


def test_a_main_role_of_a_group_the_circuit_does_not_have_is_refused(tmp_path):
    text = "  x: {method: cmap, donor: one, recipient: two, circuit: ./circuit.json, examples: 3, %s}\n"
    with pytest.raises(NnsightEtError, match="value_fecther"):
        steps(models_in(tmp_path), text % "main_role: {value_fecther: object}")


def test_heads_no_dcm_selects_are_refused_in_the_manifest():
    text = """\
name: x
experiments:
  m: {method: dcm, circuit: published/llama, desiderata: [object]}
  x: {method: activation_patching, roles: m, models: [llama], desiderata: [label]}
"""
    with pytest.raises(ManifestError, match=r"x.desiderata.0: .*label"):
        parse(text, "x")


@pytest.mark.parametrize("bad", ["threshold: true", "threshold: '0.02'"])
def test_numbers_are_not_made_of_other_things(bad):
    with pytest.raises(ManifestError):
        parse(f"name: x\nexperiments: {{p: {{method: minimality, circuit: published/llama, {bad}}}}}\n", "x")


def test_flags_are_not_made_of_other_things():
    text = "  p: {method: cmap, donor: llama, recipient: goat, circuit: published/llama, inputs: 1}\n"
    with pytest.raises(ManifestError):
        parse(f"name: x\nexperiments:\n{text}", "x")


agreed = partial(agreement, "last", gradient="autograd")


def test_fewer_heads_than_the_top_can_all_be_found():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert agreed(values, values).top_found == 1.0


def test_ranks_of_equal_effects_are_equal():
    """Pearson's correlation of (1, 1, 3, 4) - average ranks 0.5 0.5 2 3 - and of 0 1 2 3."""
    tied, other = torch.tensor([1.0, 1.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    swapped = torch.tensor([2.0, 1.0, 3.0, 4.0])
    assert agreed(tied, other).spearman == pytest.approx(agreed(tied, swapped).spearman)


def test_progress_counts_what_was_reused(tmp_path):
    models_in(tmp_path)
    text = "  x: {method: dcm, circuit: ./circuit.json, model: one, desiderata: [object], training_examples: 4, "
    text += "validation_examples: 2, test_examples: 2, epochs: 5}\n"
    steps(tmp_path, text)
    data = circuit().to_dict()
    data["groups"][0]["heads"].pop()
    (tmp_path / "circuit.json").write_text(json.dumps(data))
    masks = [(step.done, step.reused) for step in steps(tmp_path, text) if "masks" in step.step]
    assert masks == [(4, 3)]
