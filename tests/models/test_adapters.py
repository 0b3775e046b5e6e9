"""Adapters of every kind: peft's own values, on every path, or a refusal that names the kind."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.engine.budget import Chunks
from nnsight_et.interventions.engine_checks import engine_errors
from nnsight_et.interventions.path_patching import Path as Patched
from nnsight_et.interventions.path_patching import path_probabilities
from nnsight_et.models import adapters
from nnsight_et.models.adapters import _weights as read_weights
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import describe_files, download_files
from nnsight_et.models.load import load_model
from nnsight_et.models.model import Model
from tests.helpers import plain_hooks
from tests.helpers.adapter_folders import (
    REFUSED,
    TAKEN,
    TIED,
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
from tests.helpers.architectures import hf_model
from tests.helpers.tiny_model import few_pairs, hf_llama, tokenizer

PAIR = few_pairs()
PATHS = (
    Patched("last"),
    Patched("last", "query", (Head(2, 1), Head(1, 0))),
    Patched("query_label", "key", (Head(2, 0),)),
    Patched("query_label", "value", (Head(2, 2),)),
)
EVERY_PATH = ("dora", "saved attention", "ia3", "bare parameters")
"""Of these kinds all paths are tried; of others the one into queries."""
SLOW = (
    "ranks and alphas by module", "one layer", "modules left out", "a pattern", "no task", "olora", "mica", "fourier",
    "hra", "lokr", "biases of its own", "trainable tokens of the head",
)  # fmt: skip
"""Kinds like another one that is tried every time."""
SENDERS = [Head(0, 1), Head(0, 3), Head(1, 2)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small model, and those with biases and with one matrix for embedding and unembedding."""
    root, kinds = tmp_path_factory.mktemp("bases"), {"plain": {}, "biased": {"attention_bias": True}}
    kinds["tied"] = {"tie_word_embeddings": True}
    return {name: base_folder(root / name, hf_llama(**how)) for name, how in kinds.items()}


def read(base: Path, adapter: Path, dtype: str = "float32", **how: Any) -> Model:
    return load_model(download_files("mine", ModelSpec(str(base), str(adapter), **how)), dtype)


def refusal(base: Path, adapter: Path, **how: Any) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        read(base, adapter, **how)
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "\n" not in message
    assert "accepted" in message
    return message


def check_paths(model: Model, module: Any, paths: Sequence[Patched] = PATHS) -> None:
    """Both engines' probabilities on paths into logits, queries, keys and values are those of plain hooks."""
    for path in paths:
        senders = [sender for sender in SENDERS if sender in path.reaching(model.n_layers, model.n_heads)]
        _, expected = plain_hooks.path_patching(module, PAIR, senders, path.receivers, path.via, path.at)
        for engine in ("default", "reference"):
            patched = path_probabilities(model, PAIR, path, senders, engine, Chunks())["patched"]
            torch.testing.assert_close(patched, expected, atol=1e-5, rtol=1e-4)


def check_values(model: Model, module: Any, base: Any) -> None:
    """Its logits are those of peft's model, and not those of the base."""
    expected = plain_logits(module, PAIR)
    torch.testing.assert_close(logits_of(model, PAIR), expected, atol=1e-5, rtol=1e-5)
    rows = base.config.vocab_size
    assert (expected[:, :rows] - plain_logits(base, PAIR)).abs().max() > 0.05


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in TAKEN])
def test_a_kind_that_only_changes_modules_gives_pefts_values(kind, bases, tmp_path):
    name = "biased" if "biases" in kind else "plain"

    def base() -> Any:
        return hf_llama(attention_bias=name == "biased")

    folder = saved(trained(TAKEN[kind], base()), tmp_path)
    model, module = read(bases[name], folder), read_by_peft(base(), folder)
    check_values(model, module, base())
    check_paths(model, module.get_base_model(), PATHS if kind in EVERY_PATH else PATHS[1:2])


@pytest.mark.parametrize("kind", TIED)
def test_an_adapter_over_one_matrix_for_embedding_and_unembedding_gives_pefts_values(kind, bases, tmp_path):
    folder = saved(trained(TIED[kind], hf_llama(tie_word_embeddings=True)), tmp_path)
    model, module = read(bases["tied"], folder), read_by_peft(hf_llama(tie_word_embeddings=True), folder)
    check_values(model, module, hf_llama(tie_word_embeddings=True))
    check_paths(model, module.get_base_model(), PATHS[1:2])


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
OTHERS = {
    "packed, transposed dora": ("GPT-2", lora(target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True,
                                              use_dora=True)),
    "tokens and places": ("GPT-2", lora(target_modules=["c_attn", "wte", "wpe"], fan_in_fan_out=True)),
    "experts": ("Mixtral", lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "norms after attention": ("Gemma-2", lora(modules_to_save=["post_attention_layernorm"])),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_in_other_architectures_too(kind, tmp_path):
    name, config = OTHERS[kind]
    base, folder = (
        base_folder(tmp_path / "base", hf_model(name)),
        saved(trained(config, hf_model(name)), tmp_path / "a"),
    )
    files = download_files("mine", ModelSpec(str(base), str(folder)))
    model, module = load_model(files, attention="eager"), read_by_peft(hf_model(name), folder)
    check_values(model, module, hf_model(name))
    check_paths(model, module.get_base_model())


def test_experts_under_the_names_of_older_versions_are_put_where_they_belong(tmp_path):
    """Each expert had three matrices of its own; today all experts of a layer have two together."""
    module = hf_model("Mixtral")
    base, folder = base_folder(tmp_path / "base", module), tmp_path / "adapter"
    torch.manual_seed(2)
    wide, narrow = module.config.intermediate_size, module.config.hidden_size
    weights, shapes = {}, {"w1": (wide, narrow), "w2": (narrow, wide), "w3": (wide, narrow)}
    for layer, block in enumerate(module.model.layers):
        for expert in range(4):
            change = {}
            for part, (rows, columns) in shapes.items():
                key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}"
                lower, upper = 0.2 * torch.randn(3, columns), 0.2 * torch.randn(rows, 3)
                weights |= {f"{key}.lora_A.weight": lower, f"{key}.lora_B.weight": upper}
                change[part] = 2 * upper @ lower
            block.mlp.experts.gate_up_proj[expert] += torch.cat([change["w1"], change["w3"]])
            block.mlp.experts.down_proj[expert] += change["w2"]
    saved(trained(lora(), hf_llama()), folder)
    change_settings(folder, target_modules=["w1", "w2", "w3"])
    save_file(weights, folder / "adapter_model.safetensors")
    model = read(base, folder)
    torch.testing.assert_close(logits_of(model, PAIR), plain_logits(module, PAIR), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("lora", torch.bfloat16), ("dora", torch.float16), ("lora on embeddings", torch.bfloat16)],
    ids=str,
)
def test_over_halves_the_values_are_pefts_too(kind, dtype, bases, tmp_path):
    """Peft holds the adapter in float32 there; rounded to halves it gives other numbers."""
    folder = saved(trained(TAKEN[kind], hf_llama()), tmp_path)
    model = read(bases["plain"], folder, str(dtype).removeprefix("torch."))
    module = read_by_peft(AutoModelForCausalLM.from_pretrained(bases["plain"], dtype=dtype), folder)
    assert model.dtype == dtype
    assert torch.equal(logits_of(model, PAIR), plain_logits(module, PAIR))
    if kind == "lora":
        assert engine_errors(model, PAIR)["adapter"] < 1e-2


def old_form(folder: Path) -> Path:
    """The files of 2023: weights in adapter_model.bin alone, another base's name, few settings."""
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "some-org/another-name", "bias": "none", "enable_lora": null, "r": 3, '
        '"fan_in_fan_out": false, "inference_mode": true, "lora_alpha": 6, "lora_dropout": 0.05, '
        '"merge_weights": false, "modules_to_save": null, "peft_type": "LORA", '
        '"target_modules": ["q_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}'
    )
    return folder


def both_forms(folder: Path) -> Path:
    """Another adapter's weights in adapter_model.bin: peft does not look at them."""
    other = {key: 2 * value for key, value in load_file(folder / "adapter_model.safetensors").items()}
    torch.save(other, folder / "adapter_model.bin")
    return folder


FORMS = {
    "adapter_model.bin alone": old_form,
    "both files": both_forms,
    "without peft's prefix": lambda folder: change_weights(
        folder, lambda weights: {key.removeprefix("base_model.model."): one for key, one in weights.items()}
    ),
    "with the adapter's name": lambda folder: change_weights(
        folder, lambda weights: {key.replace(".weight", ".default.weight"): one for key, one in weights.items()}
    ),
    "settings that are off": lambda folder: change_settings(folder, use_something_new=False, something_new=None),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_the_same_files_give_the_same_values(form, bases, tmp_path):
    adapted = trained(lora(), hf_llama())
    check_values(read(bases["plain"], FORMS[form](saved(adapted, tmp_path))), adapted, hf_llama())


RESIZED = {
    "saved": lora(modules_to_save=["embed_tokens", "lm_head"]),
    "lora": lora(target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "tokens": lora(trainable_token_indices=[5, 123, 124]),
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", RESIZED)
def test_a_base_gets_the_words_that_an_adapter_brings(kind, tied, bases, tmp_path):
    base = hf_llama(tie_word_embeddings=tied)
    base.resize_token_embeddings(125, mean_resizing=False)
    adapted = trained(RESIZED[kind], base)
    folder = saved(adapted, tmp_path, save_embedding_layers=True)
    model = read(bases["tied" if tied else "plain"], folder)
    check_values(model, adapted, hf_llama(tie_word_embeddings=tied))
    assert model.nn.config.vocab_size == 125


def test_words_whose_numbers_are_not_all_in_the_files_are_refused(bases, tmp_path):
    for number, config in enumerate((lora(modules_to_save=["embed_tokens"]), RESIZED["tokens"])):
        base = hf_llama()
        base.resize_token_embeddings(125, mean_resizing=False)
        folder = saved(trained(config, base), tmp_path / str(number))
        wanted = "has 125 tokens, but its base has 122" if number == 0 else "changes token 124, but its base has 122"
        assert wanted in refusal(bases["plain"], folder)


def test_a_tokenizer_with_more_words_beside_the_adapter_is_chosen_by_name(bases, tmp_path):
    folder = saved(trained(lora(), hf_llama()), tmp_path)
    tokenizer().save_pretrained(folder)
    assert read(bases["plain"], folder).dtype == torch.float32
    words = tokenizer()
    words.add_tokens(["<turn>"])
    words.save_pretrained(folder)
    assert f"1 more token than the base's, such as '<turn>'; accepted: tokenizer: {folder}" in refusal(
        bases["plain"], folder
    )
    assert "<turn>" in read(bases["plain"], folder, tokenizer=str(folder)).nn.tokenizer.get_vocab()
    assert "<turn>" not in read(bases["plain"], folder, tokenizer=str(bases["plain"])).nn.tokenizer.get_vocab()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_cannot_be_run_exactly_is_refused_by_its_name(kind, bases, tmp_path):
    config, name = REFUSED[kind]
    folder = saved(trained(config, hf_llama()), tmp_path)
    message = refusal(bases["plain"], folder)
    assert name in message
    assert "does not fit" not in message


def without(part: str):
    return lambda folder: change_weights(
        folder, lambda weights: {key: one for key, one in weights.items() if part not in key}
    )


def with_a_program(folder: Path) -> Path:
    torch.save({"lora": Path("not a tensor")}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def cut_short(folder: Path) -> Path:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    return folder


def without_weights(folder: Path) -> Path:
    (folder / "adapter_model.safetensors").rename(folder / "other.safetensors")
    return folder


DAMAGED = {
    "a weight is missing": (without("layers.1.self_attn.q_proj.lora_A"),
                            "its files lack 1 weight, such as model.layers.1.self_attn.q_proj.lora_A.weight"),
    "all are missing": (without(""), "its files lack 18 weights"),
    "one too many": (lambda folder: change_weights(folder, lambda weights: weights | {
        "base_model.model.lm_head.lora_A.weight": torch.ones(3, 48)}), "that it has no place for, such as lm_head"),
    "another rank": (lambda folder: change_settings(folder, r=4), "size mismatch for"),
    "other modules": (lambda folder: change_settings(folder, target_modules=["c_attn"]),
                      "Target modules {'c_attn'} not found in the base model"),
    "a setting of the future": (lambda folder: change_settings(folder, use_something_new=True),
                                "has use_something_new: True, which peft"),
    "a kind of the future": (lambda folder: change_settings(folder, peft_type="NEWLORA"), "is NEWLORA; accepted: LORA"),
    "no kind": (lambda folder: change_settings(folder, peft_type=None), "is of no kind"),
    "several adapters in one": (lambda folder: change_settings(folder, peft_type="XLORA"), "is XLORA (several"),
    "a rank in words": (lambda folder: change_settings(folder, r="three"), "peft cannot apply its adapter"),
    "not tensors": (with_a_program, "cannot be read (a .bin file holds more than tensors, or is damaged"),
    "cut short": (cut_short, "cannot be read"),
    "no weights": (without_weights, "no weights of an adapter in"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_adapter_that_is_not_whole_or_not_of_this_model_is_refused_with_the_reason(damage, bases, tmp_path):
    change, reason = DAMAGED[damage]
    assert reason in refusal(bases["plain"], change(saved(trained(lora(), hf_llama()), tmp_path)))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_damage_to_a_bin_file_of_weights_ends_in_an_error_of_a_library(zipped, tmp_path):
    folder, draw = old_form(saved(trained(lora(), hf_llama()), tmp_path)), random.Random(0)
    file = folder / "adapter_model.bin"
    weights = torch.load(file, weights_only=True)
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    assert read_weights(folder, "mine").keys() == weights.keys()
    refused = 0
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[draw.randrange(min(len(whole), 2000))] = draw.randrange(256)
        file.write_bytes(bytes(damaged if number % 2 else whole[: draw.randrange(len(whole))]))
        try:
            read_weights(folder, "mine")
        except UnsupportedModel:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_is_a_pointer_is_called_one_wherever_it_is_looked_at(file, bases, tmp_path):
    folder = saved(trained(lora(), hf_llama()), tmp_path)
    spec = ModelSpec(str(bases["plain"]), str(folder))
    describe_files("mine", spec)
    (folder / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n")
    for look in (describe_files, download_files):
        with pytest.raises(
            UnsupportedModel, match=f"mine: .*{file} is a Git LFS pointer, not the file itself; accepted"
        ):
            look("mine", spec)


@pytest.mark.parametrize("part", ["lm_head", "k_proj"], ids=["saved head", "bias"])
def test_what_else_an_adapter_has_trained_must_be_in_its_files(part, bases, tmp_path):
    config = lora(modules_to_save=["lm_head"], bias="all")
    folder = saved(trained(config, hf_llama(attention_bias=True)), tmp_path)
    assert read(bases["biased"], folder).n_layers == 3
    assert f"{part}." in refusal(bases["biased"], without(part)(folder))


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_settings_that_are_not_json_are_refused(text, bases, tmp_path):
    folder = saved(trained(lora(), hf_llama()), tmp_path)
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json cannot be read" in refusal(bases["plain"], folder)


def test_an_adapters_folder_given_as_a_model_says_so(bases, tmp_path):
    folder = change_settings(saved(trained(lora(), hf_llama()), tmp_path), base_model_name_or_path="some-org/its-base")
    with pytest.raises(
        UnsupportedModel, match=r"holds an adapter \(made for some-org/its-base\), not a model.*adapter:"
    ):
        download_files("mine", ModelSpec(str(folder)))
    shutil.copy(bases["plain"] / "config.json", folder)  # transformers would put the adapter in without a word
    with pytest.raises(UnsupportedModel, match="holds a model and an adapter over it"):
        download_files("mine", ModelSpec(str(folder)))


def test_an_adapter_whose_weights_are_not_those_of_its_file_is_refused(bases, tmp_path, monkeypatch):
    folder = saved(trained(lora(), hf_llama()), tmp_path)
    rounded = {key: one.bfloat16() for key, one in read_weights(folder, "mine").items()}
    monkeypatch.setattr(adapters, "_weights", lambda *_: rounded)
    assert re.search(r"lora_A\.weight differs from .*adapter_model\.safetensors", refusal(bases["plain"], folder))
