"""Adapters where users meet them: at the command line, in memory, on a server."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nnsight.schema.config import CONFIG
from peft import PeftMixedModel

import nnsight_et as et
from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.diagnostics.doctor import findings
from nnsight_et.diagnostics.inspection import inspect_model
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.path_patching import Path as Patched
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.adapters import check_fit
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.models.load import distant, outline
from tests.helpers import plain_hooks
from tests.helpers.adapter_folders import (
    REFUSED,
    TAKEN,
    base_folder,
    change_settings,
    change_weights,
    logits_of,
    lora,
    plain_logits,
    read_by_peft,
    saved,
    trained,
)
from tests.helpers.commands import et as run_et
from tests.helpers.loopback_client import IDS, TRUSTED, UNTRUSTED, client, submitted, waited
from tests.helpers.tiny_model import few_pairs, hf_llama, tokenizer

PAIR = few_pairs()
STUDY = """\
name: adapted
models: {mine: {path: base, adapter: adapter}, alone: {path: adapter}}
task: {kind: boxes, boxes: 2}
experiments:
  one: {method: path_patching, model: %s, examples: 2, stages: [{group: a, into: logits, at: last, keep: 2}]}
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, and a study of it with an adapter."""
    monkeypatch.chdir(tmp_path)
    base_folder(tmp_path / "base")
    (tmp_path / "study.yaml").write_text(STUDY % "mine")
    return tmp_path


def facts_of(study: str = "study.yaml") -> dict[str, str]:
    from nnsight_et.manifest import load

    return dict(inspect_model("mine", load(Path(study), ())).facts)


def test_inspect_says_of_which_kind_an_adapter_is_and_what_it_adds(folders):
    config = lora(use_dora=True, modules_to_save=["lm_head"])
    folder = saved(trained(config, hf_llama()), folders / "adapter")
    change_settings(folder, base_model_name_or_path="some-org/its-base")
    facts = facts_of()
    assert facts["of the kind"] == (
        "LORA with use_dora, rank 3, alpha 6, on o_proj, q_proj, v_proj, with its own lm_head"
    )
    assert facts["made for"] == "some-org/its-base"
    weights = 3 * (3 * (48 + 40) + 3 * (48 + 20) + 3 * (40 + 48)) + 3 * (40 + 20 + 48) + 122 * 48  # A, B, sizes, head
    assert facts["whether it fits"] == f"yes: it adds {weights:,} parameters"
    (folder / "adapter_model.safetensors").unlink()
    assert facts_of()["whether it fits"].startswith("not known")


@pytest.mark.parametrize("kind", ["pissa", "olora", "mica", "vera", "adalora", "norms", "trainable tokens"])
def test_inspect_looks_at_every_kind_without_the_models_numbers(kind, folders):
    saved(trained(TAKEN[kind], hf_llama()), folders / "adapter")
    assert facts_of()["whether it fits"].startswith("yes: ")


@pytest.mark.parametrize("kind", ["prefixes", "alora"])
def test_a_refused_kind_is_refused_in_one_message_everywhere(kind, folders):
    saved(trained(REFUSED[kind][0], hf_llama()), folders / "adapter")
    for command in (["run", "study.yaml"], ["models", "inspect", "mine", "--manifest", "study.yaml"]):
        result = run_et(*command)
        assert result.exit_code == 2
        assert REFUSED[kind][1] in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
    assert not list(folders.glob("runs/**/result.json"))
    (finding,) = [
        one
        for one in findings(folders, {"mine": (ModelSpec("base", "adapter"), None)})
        if one.subject == "mine"
    ]  # fmt: skip
    assert finding.state == "mend"
    assert REFUSED[kind][1].split(";")[0] in finding.found


def test_an_adapter_that_does_not_fit_ends_a_run_and_an_inspection_with_2(folders):
    change_settings(saved(trained(lora(), hf_llama()), folders / "adapter"), r=5)
    for command in (["run", "study.yaml"], ["models", "inspect", "mine", "--manifest", "study.yaml"]):
        result = run_et(*command)
        assert result.exit_code == 2
        assert "size mismatch" in result.stderr


def test_an_adapters_folder_as_a_model_is_seen_by_run_inspect_and_doctor(folders):
    saved(trained(lora(), hf_llama()), folders / "adapter")
    (folders / "study.yaml").write_text(STUDY % "alone")
    for command in (["run", "study.yaml"], ["models", "inspect", "adapter"]):
        result = run_et(*command)
        assert result.exit_code == 2
        assert "holds an adapter, not a model" in " ".join(result.stderr.split())
    all_of = findings(folders, {"alone": (ModelSpec("adapter"), None), "mine": (ModelSpec("base", "adapter"), None)})
    states = {one.subject: one for one in all_of}
    assert states["alone"].state == "mend"
    assert "not a model" in states["alone"].found
    assert states["mine"].found.startswith("files are here")


def read(adapted: Any):
    return et.load(adapted, tokenizer())


@pytest.mark.parametrize("kind", ["lora", "dora", "saved attention", "trainable tokens", "ia3", "vera", "adalora"])
def test_a_peft_model_in_memory_gives_its_own_values_and_stays_as_it_was(kind):
    adapted = trained(TAKEN[kind], hf_llama())
    expected, names = plain_logits(adapted, PAIR), [name for name, _ in adapted.named_parameters()]
    model = read(adapted).model
    torch.testing.assert_close(logits_of(model, PAIR), expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain_logits(hf_llama(), PAIR)).abs().max() > 0.05
    path = Patched("last", "value", (Head(2, 1),))
    senders = [Head(0, 1), Head(1, 2)]
    _, patched = plain_hooks.path_patching(adapted.base_model.model, PAIR, senders, path.receivers, path.via, path.at)
    ours = path_probabilities(model, PAIR, path, senders, "default", Chunks())["patched"]
    torch.testing.assert_close(ours, patched, atol=1e-5, rtol=1e-4)
    assert torch.equal(plain_logits(adapted, PAIR), expected)
    assert [name for name, _ in adapted.named_parameters()] == names
    assert not any(parameter.requires_grad for parameter in adapted.parameters())


def two_adapters(tmp_path: Path) -> Any:
    adapted = read_by_peft(hf_llama(), saved(trained(lora(), hf_llama()), tmp_path / "first"))
    adapted.load_adapter(str(saved(trained(lora(r=2, use_rslora=True), hf_llama()), tmp_path / "second")), "second")
    return adapted


def test_the_adapters_that_are_active_are_what_runs(tmp_path):
    expected = {}
    for active in ("default", "second", ["default", "second"]):
        adapted = two_adapters(tmp_path)
        adapted.base_model.set_adapter(active)
        model = read(adapted).model
        expected[str(active)] = plain_logits(adapted, PAIR)
        torch.testing.assert_close(logits_of(model, PAIR), expected[str(active)], atol=1e-5, rtol=1e-5)
        assert engine_errors(model, PAIR)["adapter"] < 1e-5
    first, second, both = expected.values()
    assert min((first - second).abs().max(), (first - both).abs().max(), (second - both).abs().max()) > 0.05


def test_adapters_that_are_merged_switched_off_or_in_training_are_what_peft_says_of_them():
    merged = trained(lora(), hf_llama())
    merged.merge_adapter()
    off = trained(lora(), hf_llama())
    off.base_model.disable_adapter_layers()
    training = trained(lora(lora_dropout=0.5), hf_llama())
    expected = plain_logits(training, PAIR)
    training.train()
    for adapted, wanted in ((merged, expected), (off, plain_logits(hf_llama(), PAIR)), (training, expected)):
        torch.testing.assert_close(logits_of(read(adapted).model, PAIR), wanted, atol=1e-4, rtol=1e-4)
    assert not training.training


def test_adapters_of_two_kinds_at_once_run_as_in_peft(tmp_path):
    folders = [saved(trained(TAKEN[kind], hf_llama()), tmp_path / kind) for kind in ("lora", "loha")]
    mixed: Any = PeftMixedModel.from_pretrained(hf_llama(), str(folders[0]))
    mixed.load_adapter(str(folders[1]), "second")
    mixed.set_adapter(["default", "second"])
    mixed.eval()
    expected = plain_logits(mixed, PAIR)
    torch.testing.assert_close(logits_of(read(mixed).model, PAIR), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_kind_in_memory_is_refused_by_its_name(kind):
    config, name = REFUSED[kind]
    with pytest.raises(UnsupportedModel) as caught:
        read(trained(config, hf_llama()))
    assert "its active adapter 'default'" in str(caught.value)
    assert name in str(caught.value)


def served(folders: Path) -> Any:
    spec = ModelSpec(str(folders / "base"), str(folders / "adapter"), ndif="org/base", ndif_adapter="org/adapter")
    return distant(download_files("mine", spec, weights_too=False), spec)


ON_SERVERS = {
    "vera": "is VERA; accepted on a server: LORA",
    "adalora": "is ADALORA; accepted on a server: LORA",
    "all biases": "is LORA with bias: 'all', which changes the base's own weights",
    "pissa": "is LORA with init_lora_weights: 'pissa'",
    "saved attention": "brings its own self_attn (modules_to_save)",
}


@pytest.mark.parametrize("kind", ON_SERVERS)
def test_what_a_server_cannot_put_over_its_model_is_refused_here(kind, folders):
    saved(trained(TAKEN[kind], hf_llama(attention_bias="biases" in kind)), folders / "adapter")
    with pytest.raises(UnsupportedModel) as caught:
        served(folders)
    assert ON_SERVERS[kind] in str(caught.value)
    assert "backend: local" in str(caught.value) or "accepted on a server: LORA" in str(caught.value)


def test_what_does_not_fit_is_said_before_anything_is_sent_if_its_weights_are_here(folders):
    adapter = saved(trained(lora(), hf_llama()), folders / "adapter")
    change_weights(adapter, lambda weights: dict(list(weights.items())[1:]))
    with pytest.raises(UnsupportedModel, match="its files lack 1 weight"):
        served(folders)
    (adapter / "adapter_model.safetensors").unlink()
    assert served(folders).n_layers == 3
    wider = hf_llama()
    wider.resize_token_embeddings(125, mean_resizing=False)
    saved(trained(lora(modules_to_save=["embed_tokens", "lm_head"]), wider), adapter)
    with pytest.raises(
        UnsupportedModel, match="its adapter has 125 tokens, but its base has 122; accepted on a server"
    ):
        check_fit(outline(download_files("mine", ModelSpec(str(folders / "base")))), adapter, "mine")


@pytest.mark.parametrize(
    "kind", ["dora", "saved embeddings and head", "lora on embeddings", "trainable tokens", "ia3", "bare parameters"]
)
def test_a_server_gives_pefts_values_of_other_kinds_too(kind, server, deployed, tmp_path, monkeypatch):
    folder = saved(trained(TAKEN[kind], hf_llama()), tmp_path)
    expected = read_by_peft(hf_llama(), folder)(IDS).logits[:, -1].detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = client(deployed)
    monkeypatch.setattr(there, "peft", str(folder))
    for key in (TRUSTED, UNTRUSTED):
        monkeypatch.setattr(CONFIG.API, "APIKEY", key)
        torch.testing.assert_close(
            waited(submitted(there, server.address))["logits"], expected, atol=1e-5, rtol=1e-5
        )  # fmt: skip
