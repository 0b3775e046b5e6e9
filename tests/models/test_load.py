"""Loading: what a folder must hold, what is refused and how, LoRA adapters, and the check of a model's parts."""

from __future__ import annotations

import shutil
import socket

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.core.metrics import patching_score
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.path_patching import Path as Patched
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models.catalog import ModelSpec, Shape
from nnsight_et.models.files import Files, describe_files, download_files
from nnsight_et.models.load import load_model, shape_of, tokenizer_of, wrap_model
from tests.helpers import plain_hooks
from tests.helpers.closeness import assert_near
from tests.helpers.tiny_model import change_config, few_pairs, hf_llama, tiny_model, tokenizer


def test_a_model_on_disk_is_loaded_as_it_is(folder):
    files = download_files("mine", ModelSpec(str(folder)))
    assert shape_of(files) == Shape(3, 4, 2, 10, 48, 80, 122)
    model = load_model(files)
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_head) == (3, 4, 2, 10)
    assert model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.nn._module.parameters())
    pair = few_pairs()
    logits = plain_hooks.run_model(hf_llama(), pair.base.tokens, pair.base.mask)
    scores = path_probabilities(model, pair, Patched("last"), [Head(0, 0)], "default", Chunks())
    assert_near(scores["base"], logits[:, -1].softmax(-1)[torch.arange(3), pair.answer])


def test_a_model_whose_unembedding_is_its_embedding_is_loaded(folder):
    hf_llama(tie_word_embeddings=True).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    module = load_model(download_files("mine", ModelSpec(str(folder)))).nn._module
    assert torch.equal(module.lm_head.weight, hf_llama(tie_word_embeddings=True).model.embed_tokens.weight)


def test_dtype_and_attention_are_those_that_were_asked_for(folder):
    model = load_model(download_files("mine", ModelSpec(str(folder))), dtype="float64", attention="eager")
    assert model.dtype == torch.float64
    assert model.nn.config._attn_implementation == "eager"


def test_a_tokenizer_in_another_folder_is_used(folder, tmp_path):
    (tmp_path / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / name, tmp_path / "words" / name)
    files = download_files("mine", ModelSpec(str(folder), tokenizer=str(tmp_path / "words")))
    assert tokenizer_of(files).convert_tokens_to_ids("apple") == tokenizer().convert_tokens_to_ids("apple")


def test_a_tokenizer_without_padding_gets_one(folder):
    words = tokenizer()
    words.pad_token = None
    words.save_pretrained(folder)
    assert tokenizer_of(download_files("mine", ModelSpec(str(folder)))).pad_token_id is not None


PATHS = {"direct": Patched("last"), "query": Patched("last", "query", (Head(2, 1), Head(1, 0))),
         "value": Patched("query_label", "value", (Head(2, 2),))}  # fmt: skip


def test_an_adapter_gives_scores_of_its_own_that_plain_hooks_on_the_adapted_model_confirm(folder, adapter):
    plain, adapted = (load_model(download_files("mine", ModelSpec(str(folder), one))) for one in (None, str(adapter)))
    module = PeftModel.from_pretrained(hf_llama(), adapter).get_base_model().eval()
    pair = few_pairs()
    for path in PATHS.values():
        senders = path.reaching(3, 4)
        expected = plain_hooks.path_patching(module, pair, senders, path.receivers, path.via, path.at)
        score = patching_score(expected[1], expected[0])
        for engine in ("default", "reference"):
            with_it = path_probabilities(adapted, pair, path, senders, engine, Chunks())
            assert_near(patching_score(with_it["patched"], with_it["base"]), score, size=1)
        without = path_probabilities(plain, pair, path, senders, "default", Chunks())
        assert (patching_score(without["patched"], without["base"]) - score).abs().max() > 1e-3


def test_a_changed_weight_adapter_or_tokenizer_changes_the_fingerprint(folder, adapter):
    spec = ModelSpec(str(folder), str(adapter))
    prints = [download_files("mine", ModelSpec(str(folder))).fingerprint, download_files("mine", spec).fingerprint]
    assert download_files("another name", spec).fingerprint == prints[-1]
    for path in (folder / "model.safetensors", adapter / "adapter_model.safetensors"):
        tensors = load_file(path)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, path, {"format": "pt"})
        prints.append(download_files("mine", spec).fingerprint)
    change_config(folder, rms_norm_eps=1e-4)
    prints.append(download_files("mine", spec).fingerprint)
    words = folder / "tokenizer.json"
    words.write_text(words.read_text().replace("apple", "appel"))
    prints.append(download_files("mine", spec).fingerprint)
    assert len(set(prints)) == 6


def checked(files: Files) -> None:
    shape_of(files)
    tokenizer_of(files)


def refusal(spec: ModelSpec) -> str:
    """What `et run` would say about the model, from the checks it makes before any weight is read."""
    with pytest.raises(UnsupportedModel) as caught:
        checked(download_files("mine", spec))
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "\n" not in message
    return message


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    message = refusal(ModelSpec(str(folder)))
    assert message.startswith(f"mine: no weights in {folder}; accepted: ")
    assert "*.safetensors" in message


@pytest.mark.parametrize("read", [download_files, describe_files])
def test_a_revision_of_a_folder_is_refused_but_for_the_servers(folder, adapter, read):
    for key, spec in {
        "revision": ModelSpec(str(folder), revision="v2"),
        "adapter_revision": ModelSpec(str(folder), adapter=str(adapter), adapter_revision="v2"),
    }.items():
        with pytest.raises(
            UnsupportedModel, match=rf"mine: {key} is 'v2', but .* is a local folder.*; accepted: no {key}"
        ):
            read("mine", spec)
    assert read("mine", ModelSpec(str(folder), revision="v2", ndif="org/mine")).weights == folder


def test_a_folder_without_a_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    assert refusal(ModelSpec(str(folder))).startswith(f"mine: no config.json in {folder}; accepted: ")


def test_a_broken_configuration_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert f"{folder}/config.json cannot be read" in refusal(ModelSpec(str(folder)))


def test_an_architecture_nobody_knows_here_is_refused(folder):
    change_config(folder, model_type="xglm")
    assert "architecture 'xglm' is not known; accepted: " in refusal(ModelSpec(str(folder)))


def test_an_architecture_nobody_knows_anywhere_is_refused(folder):
    change_config(folder, model_type="lama")
    assert "lama" in refusal(ModelSpec(str(folder)))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    message = f"no tokenizer in {folder}; accepted: tokenizer.json in it, or tokenizer: a folder or hub id that has one"
    assert message in refusal(ModelSpec(str(folder)))


def test_an_adapter_that_is_not_there_is_refused(folder, adapter, tmp_path):
    (adapter / "adapter_model.safetensors").unlink()
    assert f"no weights in {adapter}" in refusal(ModelSpec(str(folder), str(adapter)))
    (adapter / "adapter_config.json").unlink()
    assert f"no adapter_config.json in {adapter}" in refusal(ModelSpec(str(folder), str(adapter)))
    assert f"no folder {tmp_path}/nothing; accepted: " in refusal(ModelSpec(str(folder), f"{tmp_path}/nothing"))


@pytest.mark.parametrize("place", ["./missing", "/nowhere/at/all", "~/no such folder", "a/b/c", "word"])
def test_a_folder_that_is_not_there_is_refused(place):
    message = refusal(ModelSpec(place))
    assert message.startswith(f"mine: no folder {place}; accepted: ")
    assert message.endswith("a hub id such as org/name")


@pytest.fixture
def closed_port():
    """A port of this machine on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "no answer"])
def test_a_hub_id_without_a_network_is_refused(offline, closed_port, tmp_path, monkeypatch):
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    message = refusal(ModelSpec("some-org/some-model"))
    assert "'some-org/some-model' cannot be fetched from the hub" in message
    assert "accepted: a local folder" in message


class Bent(torch.nn.Linear):
    """An output projection that is not linear: heads do not write side by side."""

    def forward(self, input):
        return super().forward(input).tanh()


class Scaled(LlamaDecoderLayer):
    """A layer that does more to its residual than adding attention and MLP."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 1.001


@pytest.mark.parametrize("kind", [Bent, Scaled])
def test_a_model_whose_parts_do_not_add_up_is_refused(kind):
    module = hf_llama()
    layer = module.model.layers[1]
    (layer if kind is Scaled else layer.self_attn.o_proj).__class__ = kind
    with pytest.raises(UnsupportedModel, match=r"tiny: its layers are not residual .* mlp .*relative gap"):
        tiny_model(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parts_that_do_add_up_are_accepted_in_every_dtype(dtype):
    model = tiny_model(hf_llama(layers=4, attention_bias=True, dtype=dtype))
    assert wrap_model(model.nn, "mine").dtype == dtype
