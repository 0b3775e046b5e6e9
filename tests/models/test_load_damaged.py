"""Model folders whose weights cannot be what their configuration says: refused, never filled up with random numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models import tokenizing
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.failures import LOADING_ERRORS, reading_files
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model, shape_of, tokenizer_of
from nnsight_et.models.model import Model
from tests.helpers.commands import STUDY, et
from tests.helpers.tiny_model import change_config, hf_llama, tokenizer


def read(spec: ModelSpec) -> Model:
    files = download_files("mine", spec)
    shape_of(files)
    return load_model(files)


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors" * 99)


def half_of_the_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    hf_llama().save_pretrained(folder, max_shard_size="60KB")
    next(folder.glob("model-00002-of-*.safetensors")).unlink()


def sizes_of_another_model(folder: Path) -> None:
    change_config(folder, intermediate_size=90)


def layers_without_weights(folder: Path) -> None:
    change_config(folder, num_hidden_layers=5)  # transformers makes random numbers for them, and says so in its log


def sizes_that_are_no_numbers(folder: Path) -> None:
    change_config(folder, num_attention_heads="four")


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def weights_cut_in_half(folder: Path) -> None:
    cut_in_half(folder / "model.safetensors")


def in_a_bin_file(folder: Path, content: Any = None, **options: Any) -> Path:
    """The weights, or some other content, as torch.save writes it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors if content is None else content, folder / "pytorch_model.bin", **options)
    return folder / "pytorch_model.bin"


def a_bin_file_cut_in_half(folder: Path) -> None:
    cut_in_half(in_a_bin_file(folder))


def an_old_bin_file_cut_in_half(folder: Path) -> None:
    cut_in_half(in_a_bin_file(folder, _use_new_zipfile_serialization=False))


def a_bin_file_of_text(folder: Path) -> None:
    in_a_bin_file(folder).write_text("not tensors" * 99)


def a_bin_file_with_a_program_in_it(folder: Path) -> None:
    in_a_bin_file(folder, {"lm_head.weight": torch.ones(2), "arguments": Path("x")})


def a_bin_file_of_a_whole_training(folder: Path) -> None:
    in_a_bin_file(folder, {"state_dict": {"lm_head.weight": torch.ones(2)}, "epoch": 3})


def a_bin_file_of_a_list(folder: Path) -> None:
    in_a_bin_file(folder, [torch.ones(2)])


def index_of(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    hf_llama().save_pretrained(folder, max_shard_size="60KB")
    return folder / "model.safetensors.index.json"


def an_index_of_files_that_are_not_there(folder: Path) -> None:
    path = index_of(folder)
    path.write_text(path.read_text().replace("model-00002", "model-20000"))


def an_index_without_files(folder: Path) -> None:
    index_of(folder).write_text(json.dumps({"metadata": {}, "weight_map": {}}))


def an_index_of_numbers(folder: Path) -> None:
    index_of(folder).write_text(json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": 3}}))


def an_index_that_is_a_list(folder: Path) -> None:
    index_of(folder).write_text("[]")


def an_index_that_is_no_json(folder: Path) -> None:
    index_of(folder).write_text("{")


def shards_without_an_index(folder: Path) -> None:
    index_of(folder).unlink()


def generation_that_is_a_list(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[]")


def no_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=0)


WEIGHTS = [
    damaged, half_of_the_shards, sizes_of_another_model, layers_without_weights, sizes_that_are_no_numbers,
    weights_cut_in_half, a_bin_file_cut_in_half, an_old_bin_file_cut_in_half, a_bin_file_of_text,
    a_bin_file_with_a_program_in_it, a_bin_file_of_a_whole_training, a_bin_file_of_a_list,
    an_index_of_files_that_are_not_there, an_index_without_files, an_index_of_numbers, an_index_that_is_a_list,
    an_index_that_is_no_json, shards_without_an_index, generation_that_is_a_list, no_layers,
]  # fmt: skip


def refusal(folder: Path, files_only: bool = False) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        tokenizer_of(download_files("mine", ModelSpec(str(folder)))) if files_only else read(ModelSpec(str(folder)))
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "; accepted: " in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("break_", WEIGHTS, ids=lambda change: change.__name__)
def test_weights_that_cannot_be_what_the_configuration_says_are_refused(folder, break_):
    break_(folder)
    refusal(folder)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "a width that is no number": {"hidden_size": float("nan")},
    "a head width without end": {"head_dim": float("inf")},
    "a norm that is no number": {"rms_norm_eps": float("nan")},
    "rotations that are a number": {"rope_parameters": 3},
    "rotations of no known kind": {"rope_scaling": {"type": "of tomorrow"}},
    "an activation nobody knows": {"hidden_act": "of tomorrow"},
    "no vocabulary": {"vocab_size": None},
    "a model type that is a number": {"model_type": 3},
    "a dtype nobody knows": {"dtype": "float99"},
    "padding outside of the embedding": {"pad_token_id": 9999},
    "a list of labels that is a number": {"id2label": 3},
    "a key that only code has": {"sub_configs": {}},
    "a file of weights that is not there": {"transformers_weights": "other.safetensors"},
    "an attention nobody knows": {"_attn_implementation": "of tomorrow"},
    "layers below none": {"num_hidden_layers": -1},
    "heads of no number": {"num_attention_heads": 0},
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_damaged_configuration_is_one_message(folder, kind):
    change_config(folder, **CONFIGURATIONS[kind])
    refusal(folder)


DAMAGED_TEXTS = {
    "empty": b"", "no json": b"{", "a list": b"[]", "null": b"null", "a number": b"3",
    "no text": b"\xff\xfe\xff", "without end": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED_TEXTS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_not_what_it_is_called_is_one_message(folder, name, kind):
    (folder / name).write_bytes(DAMAGED_TEXTS[kind])
    refusal(folder, files_only=name != "config.json")


def as_rust_panics(content: dict[str, Any]) -> None:
    special = {"SpecialToken": {"id": "nobody's", "type_id": 0}}
    content["post_processor"] = {"type": "TemplateProcessing", "single": [special], "pair": [], "special_tokens": {}}


TOKENIZERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda content: content.pop("model"),
    "a vocabulary that is a list": lambda content: content["model"].update(vocab=[1, 2]),
    "a token below 0": lambda content: content["model"].update(vocab={"a": -1}),
    "a model nobody knows": lambda content: content["model"].update(type="OfTomorrow"),
    "tokens that are a number": lambda content: content.update(added_tokens=3),
    "a pattern that is none": lambda content: content.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
    "a template of tokens it lacks": as_rust_panics,
    "a normalizer that is a number": lambda content: content.update(normalizer=[3]),
    "padding of no kind": lambda content: content.update(padding={"strategy": 3}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_damaged_tokenizer_is_one_message(folder, kind):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    TOKENIZERS[kind](content)
    path.write_text(json.dumps(content))
    refusal(folder, files_only=True)


TOKENIZER_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "a class that is a number": {"tokenizer_class": 3},
    "a class whose package is not here": {"tokenizer_class": "BertJapaneseTokenizer"},
    "a class without character offsets": {"tokenizer_class": "ByT5Tokenizer"},
    "a token that is a number": {"pad_token": 3},
    "tokens without numbers": {"added_tokens_decoder": {"x": {}}},
    "a length that is a word": {"model_max_length": "long"},
    "more tokens that are a number": {"extra_special_tokens": 3},
}


@pytest.mark.parametrize("kind", TOKENIZER_CONFIGURATIONS)
def test_a_damaged_tokenizer_configuration_is_one_message(folder, kind):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | TOKENIZER_CONFIGURATIONS[kind]))
    refusal(folder, files_only=True)


def test_a_chat_template_that_is_no_text_is_one_message_and_a_broken_one_that_nobody_asks_for_is_none(folder):
    template = folder / "chat_template.jinja"
    template.write_text("{% if")
    read(ModelSpec(str(folder)))
    again = shutil.copytree(folder, folder.parent / "again")  # a folder's tokenizer is read once
    (again / "chat_template.jinja").write_bytes(b"\xff\xfe")
    refusal(again, files_only=True)


def test_a_sentencepiece_file_without_its_package_names_that(folder, monkeypatch):
    monkeypatch.setattr(tokenizing, "find_spec", lambda name: None)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"not sentencepiece")
    assert "pip install sentencepiece" in refusal(folder, files_only=True)


def test_a_word_list_of_two_files_that_is_damaged_is_one_message(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (folder / "vocab.json").write_text(json.dumps({"a": 0}))
    (folder / "merges.txt").write_text("#version: 0.2\na b c d")
    assert "Merges text file invalid" in refusal(folder, files_only=True)


@pytest.mark.parametrize("raised", [*LOADING_ERRORS, Exception, NotImplementedError, torch.OutOfMemoryError])
def test_what_libraries_raise_becomes_a_message(raised):
    with pytest.raises(UnsupportedModel, match="told: "), reading_files(lambda reason: f"told: {reason}"):
        raise raised("a reason")


class Bug(Exception):
    """Of nobody's list."""


@pytest.mark.parametrize("raised", [Bug, KeyboardInterrupt, MemoryError, UnsupportedModel])
def test_what_they_do_not_raise_passes(raised):
    with pytest.raises(raised, match="a reason"), reading_files(lambda reason: f"told: {reason}"):
        raise raised("a reason")


@pytest.mark.parametrize(
    "break_", [damaged, an_index_of_numbers, a_bin_file_with_a_program_in_it, generation_that_is_a_list]
)
def test_the_command_says_so_in_one_line_and_ends_with_2(tmp_path, break_):
    for name in ("one", "two"):
        hf_llama().save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    break_(tmp_path / "one")
    (tmp_path / "study.yaml").write_text(STUDY)
    said = et("run", tmp_path / "study.yaml", "--only", "found", "--out", tmp_path / "runs")
    assert said.exit_code == 2
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("one: ")]
    assert "; accepted: " in line
    assert "Traceback" not in said.output
    assert not [*(tmp_path / "runs").glob("**/result.json")]


def test_an_adapter_of_another_model_is_refused(folder, adapter):
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers.1", "layers.7"): value for name, value in load_file(path).items()}, path)
    with pytest.raises(UnsupportedModel, match=r"^mine: "):
        read(ModelSpec(str(folder), str(adapter)))
