"""What methods are told or learn, by other ways: right means, donations and masks pass, wrong ones do not."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from nnsight_et.core.batch import padded_batch
from nnsight_et.core.circuit import Head, HeadGroup
from nnsight_et.core.errors import ExperimentError
from nnsight_et.interventions import ablation, cmap, dcm, method_checks
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.method_checks import donated_values, means_error, training_errors
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model
from tests.helpers import plain_methods
from tests.helpers.closeness import assert_near
from tests.helpers.methods_study import models_in, steps
from tests.helpers.tiny_model import PAD, few_examples, few_pairs, hf_llama, tiny_model

NAMES = ("query_label", "last")
GROUP = HeadGroup("a", "query_label", (Head(0, 1), Head(1, 3), Head(1, 2)))
TABLE = "  x: {method: faithfulness, circuit: ./circuit.json, models: [one], examples: 4, ablation_examples: 5}\n"
MASKS = """\
  x: {method: dcm, circuit: ./circuit.json, model: one, desiderata: [position], training_examples: 4,
      validation_examples: 2, test_examples: 2, learning_rate: 0.3}
"""
ACROSS = "  x: {method: cmap, donor: two, recipient: one, circuit: ./circuit.json, examples: 4, random_sets: 0}\n"


@pytest.mark.parametrize("names", [None, NAMES])
def test_means_of_padded_prompts_are_those_of_each_prompt_alone(names):
    model, prompts = tiny_model(hf_llama()), [example.base for example in few_examples((2, 3, 2))]
    alone = [padded_batch([prompt]) for prompt in prompts]
    means = ablation.mean_outputs(model, [padded_batch(prompts, PAD)], names)["z"]
    assert means_error(model, alone, names, means) < 1e-5
    assert means_error(model, alone[:2], names, means) > 0.01
    assert means_error(model, alone, names, means.roll(1, 0)) > 0.01
    assert means_error(model, alone, names, means.roll(1, 1)) > 0.01


def test_what_a_donor_gives_in_a_batch_is_what_it_gives_in_a_run_of_one_prompt():
    model, examples = tiny_model(hf_llama()), few_examples((3, 3, 3))
    given = cmap.donor_inputs(model, padded_batch([example.base for example in examples], PAD), GROUP)
    inputs = {name: values[1] for name, values in given.items()}
    expected = donated_values(model, padded_batch([examples[1].base]), GROUP)
    assert set(expected) == {f"{via} {layer}" for via in ("query", "key", "value") for layer in (0, 1)}
    for name, values in inputs.items():
        assert_near(values, expected[name], size=1)


@pytest.mark.parametrize("at", ["last", "previous_query_label"])
def test_a_step_of_training_goes_where_finite_differences_say(at, monkeypatch):
    model, pair = tiny_model(hf_llama(seed=3)), few_pairs((3, 3))
    group = HeadGroup("a", at, (Head(0, 1), Head(1, 3), Head(2, 2)))
    errors = training_errors(model, group, pair, pair)
    assert errors["mask gradient"] < 1e-4
    assert errors["mask training"] == 0
    right = dcm.trained_masks

    def other_way(*arguments):
        return [one | {"masks": 1 - one["masks"]} for one in right(*arguments)]

    monkeypatch.setattr(method_checks, "trained_masks", other_way)
    assert training_errors(model, group, pair, pair)["mask training"] == float("inf")
    monkeypatch.setattr(
        method_checks,
        "trained_masks",
        lambda *given: [one | {"accuracies": one["accuracies"] + 0.5} for one in right(*given)],
    )
    assert training_errors(model, group, pair, pair)["mask training"] == float("inf")


def test_an_adapter_that_is_loaded_and_does_nothing_is_seen(folder, adapter):
    model = load_model(download_files("tiny", ModelSpec(str(folder), str(adapter))))
    assert engine_errors(model, few_pairs())["adapter"] < 1e-5
    for module in model.nn._module.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert engine_errors(model, few_pairs())["adapter"] > 0.1
    assert "adapter" not in engine_errors(tiny_model(hf_llama()), few_pairs())


def test_a_fill_of_the_layer_below_is_seen(monkeypatch):
    model, pair, right = tiny_model(hf_llama()), few_pairs(), ablation.AblationValues.outputs
    assert engine_errors(model, pair)["fill"] == 0
    monkeypatch.setattr(
        ablation.AblationValues, "outputs", lambda *arguments: [*right(*arguments)[1:], right(*arguments)[0]]
    )
    assert engine_errors(model, pair)["fill"] == float("inf")


@pytest.mark.parametrize(
    ("module", "name", "changed", "study", "message"),
    [
        ("interventions.method_checks", "mean_outputs",
         lambda found: {"z": found["z"] * 1.01}, TABLE, "self-check 'means'"),
        ("measuring.predictions", "model_readouts",
         lambda found: found | {"logit": found["logit"].roll(1)}, TABLE, "'reference engine'"),
        ("methods.cmap.experiment", "donor_outputs",
         lambda found: {name: z + 0.01 for name, z in found.items()}, ACROSS,
         "self-check 'donation', step donor outputs"),
        ("methods.cmap.experiment", "donor_inputs",
         lambda found: {name: z + 0.01 * ("key" in name) for name, z in found.items()}, ACROSS,
         "self-check 'donation', step donor inputs of value_fetcher"),
        ("measuring.mask_training", "trained_masks",
         lambda found: [one | {"mask": 1 - one["mask"]} for one in found], MASKS, "'decisions'"),
    ],
)  # fmt: skip
def test_a_run_stops_where_one_of_them_differs(tmp_path, monkeypatch, module, name, changed, study, message):
    models_in(tmp_path)
    place = import_module(f"nnsight_et.{module}")
    right = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *arguments: changed(right(*arguments)))
    with pytest.raises(ExperimentError, match=message):
        steps(tmp_path, study)
    assert not list((tmp_path / "runs").glob("*/*/x"))


def test_the_slope_by_finite_differences_is_the_gradient_of_plain_pytorch():
    module, pair, head = hf_llama(dtype=torch.float64), few_pairs((3, 3)), Head(1, 3)
    mask = torch.ones(1, dtype=torch.float64, requires_grad=True)
    logits = plain_methods.masked_logits(module, pair, [head], "query_label", mask)
    logits[torch.arange(2), pair.answer].mean().backward()
    assert mask.grad is not None
    slope = method_checks._logit_slope(tiny_model(module), pair, "query_label", head)
    assert slope.item() == pytest.approx(mask.grad.item(), rel=0.02)


def test_a_head_whose_own_projection_does_not_move_it_is_seen(monkeypatch):
    model = tiny_model(hf_llama())
    monkeypatch.setattr(Model, "write_projection", lambda *_: None)
    errors = engine_errors(model, few_pairs())
    assert all(errors[f"heads of {name}"] == float("inf") for name in ("queries", "keys", "values"))
