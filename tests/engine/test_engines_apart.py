"""The engines share no pass: each method ends without the other engine's passes, and not without its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nnsight_et.engine import one_token, suffix
from nnsight_et.engine import reference as definition
from nnsight_et.models.model import Model
from tests.helpers.methods_study import models_in, results

ON_CIRCUIT = "circuit: ./circuit.json, model: one, examples: 3"
STUDIES = {
    "path_patching": "model: one, examples: 3, stages: [{group: a, into: logits, at: last, keep: 3, receivers: 2}, "
    "{group: b, into: a, via: value, at: query_label, keep: 2}]",
    "faithfulness": "circuit: ./circuit.json, models: [one], examples: 3, ablation_examples: 3",
    "completeness": f"{ON_CIRCUIT}, ablation_examples: 3, draws: 1",
    "cmap": "donor: two, recipient: one, circuit: ./circuit.json, examples: 3, random_sets: 0",
    "knockout": "model: one, examples: 3",
    "attention_patterns": ON_CIRCUIT,
    "attribution": "model: one, examples: 3",
}
PASSES = {
    "default": [(suffix, "_pass"), (one_token, "to_logits"), (one_token, "to_receivers"), (Model, "attention_weights")],
    "reference": [
        (definition, name)
        for name in (
            "head_outputs",
            "run_with_replacements",
            "path_effects",
            "run_with_blocked_attention",
            "reference_readout",
        )
    ],
}


class RefusedError(Exception):
    pass


def refuse(*_arguments):
    raise RefusedError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return models_in(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize(("engine", "other"), [("default", "reference"), ("reference", "default")])
@pytest.mark.parametrize("method", STUDIES)
def test_a_method_ends_without_the_other_engines_passes_and_not_without_its_own(
    root, monkeypatch, method, engine, other
):
    study = f"  x: {{method: {method}, {STUDIES[method]}}}\n"
    for place, name in PASSES[other]:
        monkeypatch.setattr(place, name, refuse)
    assert results(root, study, f"engine={engine}", "self_check=off")["x"].scores
    shutil.rmtree(root / "runs")
    for place, name in PASSES[engine]:
        monkeypatch.setattr(place, name, refuse)
    with pytest.raises(RefusedError):
        results(root, study, f"engine={engine}", "self_check=off")
