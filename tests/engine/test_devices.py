"""A model on two devices gives what it gives on one, and no tensor meets one that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from transformers import AutoModelForCausalLM

from nnsight_et.core.errors import ManifestError, UnsupportedModel
from nnsight_et.diagnostics.doctor import findings
from nnsight_et.interventions.calls import resolve_placement
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.manifest import load
from nnsight_et.measuring import model_pool
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.families import FAMILIES
from nnsight_et.models.files import Files, download_files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model
from nnsight_et.planning.plan import plan
from nnsight_et.runner.run import device_of, run
from tests.helpers.architectures import QUICK, hf_model
from tests.helpers.commands import EVERY, STUDY
from tests.helpers.pretend_devices import FIRST, SECOND, apart, on
from tests.helpers.tiny_model import few_pairs, hf_llama, tiny_model

SPREAD = (FIRST, SECOND, SECOND)
FEWER = re.sub(r"\b(examples|draws|random_circuits|random_sets): [0-9]+", r"\1: 2", "self_check: off\n" + STUDY + EVERY)
FEWER = FEWER.replace("batch: 1", "batch: 1, epochs: 1, learning_rate: 0.2, desiderata: [object]")
FEW = ("Llama 3 (GQA)", "GPT-2")


def test_what_is_on_another_device_cannot_be_used_unmoved():
    with apart():
        one, other = torch.ones(2, device=FIRST), torch.ones(2, device=SECOND)
        assert (one.device, other.device) == (FIRST, SECOND)
        assert (one + other.to(FIRST)).cpu().tolist() == [2, 2]
        with pytest.raises(RuntimeError, match=r"lazy:0.*lazy:1"):
            one.add(other)


def test_a_model_that_is_told_of_one_device_only_fails_on_two():
    with apart():
        model = replace(on(hf_llama(), SPREAD), spread=())
        with pytest.raises(RuntimeError, match=r"lazy:0.*lazy:1"):
            engine_errors(model, few_pairs((2, 3)).to(FIRST))


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in QUICK]
)
def test_what_must_hold_of_any_model_holds_on_two_devices(name):
    module = hf_model(name)
    attention = FAMILIES[module.config.model_type].implementations[0]
    with apart():
        model = on(module, SPREAD, attention)
        assert (model.spread, model.device) == (SPREAD, FIRST)
        errors = engine_errors(model, few_pairs((2, 3)).to(FIRST))
    assert max(errors.values()) < 1e-5, errors
    assert errors["reference: source = base"] == errors["out of reach"] == 0


def test_a_model_learns_where_its_traces_run_what_is_where():
    with apart():
        model = on(hf_llama(), SPREAD)
        unknowing = replace(model, device=torch.device("cpu"), spread=(), dtype=torch.float64)
        with unknowing.session():
            there = nnsight.save(resolve_placement(unknowing))
        assert (there.device, there.spread, there.dtype) == (FIRST, SPREAD, torch.float32)


@pytest.mark.parametrize("only", [("selected", "blind"), pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"])
def test_every_method_gives_the_same_bytes_on_two_devices_as_on_one(only, two_models, tmp_path, monkeypatch):
    path = two_models / "devices.yaml"
    path.write_text(FEWER if only else STUDY + EVERY)
    one, other = (
        scores_on(devices, path, only, tmp_path / str(number), monkeypatch)
        for number, devices in enumerate([(FIRST,) * 3, SPREAD])
    )
    assert one.keys() == ({"found", *only} if only else load(path).experiments.keys())
    assert one == other


def scores_on(
    devices: tuple[torch.device, ...], path: Path, only: Sequence[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The scores of a run's experiments, of all or only these, whose models' layers are on these devices."""
    used = []

    def elsewhere(files: Files, dtype: str, device: str, attention: str) -> Model:
        model = on(load_model(files, dtype, device, attention).nn._module, devices, attention)
        used.append(model.spread)
        return model

    monkeypatch.setattr(model_pool, "load_model", elsewhere)
    with apart():
        list(run(plan(load(path)), root, only=only))
    assert used
    assert set(used) == {devices if len(set(devices)) > 1 else ()}
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("*/*/*/scores.safetensors"))}


def test_balanced_is_what_transformers_is_asked_for(folder, monkeypatch):
    asked, load_it = [], AutoModelForCausalLM.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        asked.append(options.pop("device_map", None))  # it would look for GPUs
        return load_it(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    for device in ("balanced", "cpu"):
        load_model(download_files("mine", ModelSpec(str(folder))), device=device)
    assert asked == ["balanced", None]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "balanced"])
def test_gpus_that_are_not_here_are_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ManifestError, match=f"device: {device}, but there is no CUDA device here; accepted: cpu, auto"):
        device_of(device)


@pytest.mark.parametrize(("count", "told"), [(1, False), (4, True)])
def test_the_doctor_says_what_several_gpus_are_good_for(count, told, monkeypatch):
    known = {
        "is_available": True,
        "mem_get_info": (30 << 30, 80 << 30),
        "get_device_name": "GPU",
        "device_count": count,
    }
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    (found_here,) = [one for one in findings(Path(), {}) if one.subject == "device"]
    assert "GPU, 30 of 80 GiB free" in found_here.found
    assert ("balanced" in found_here.do and f"ray:{count}" in found_here.do) == told


def test_a_layer_on_two_devices_or_on_none_is_refused():
    module = hf_llama()
    module.model.layers[1].mlp.to("meta")
    with pytest.raises(UnsupportedModel, match=r"weights of layer 1 are on cpu and no device; accepted: each"):
        tiny_model(module)
