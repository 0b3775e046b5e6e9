"""Weights on disk: what a model's files hold is what it has, as plain numbers, or one message says what is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

import nnsight_et
from nnsight_et.core.batch import collate
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.catalog import EMBEDDED, ModelSpec
from nnsight_et.models.files import FETCHED, WEIGHTS, download_files
from nnsight_et.models.load import load_model, tokenizer_of
from tests.helpers.commands import STUDY, et
from tests.helpers.tiny_model import PAD, change_config, few_examples, hf_llama, tokenizer

QUERY = "model.layers.1.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"
TOKENS = torch.tensor([[0, 3, 20, 21]])
Tensors = dict[str, Any]


def read(folder: Path) -> Any:
    return load_model(download_files("mine", ModelSpec(str(folder)))).nn._module


def refusal(folder: Path) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "accepted" in message
    assert "\n" not in message
    return message


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def as_bin(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(TOKENS).logits


SURPLUS = {
    "a bias": ({f"{QUERY}.bias": torch.ones(40)}, f"1 parameter is in its files .* such as {QUERY}.bias"),
    "a layer": ({"model.layers.3.mlp.up_proj.weight": torch.ones(80, 48)}, r"such as model\.layers\.3\.mlp"),
    "two of a head for later tokens": (
        {"mtp.fc.weight": torch.ones(4), "mtp.norm.weight": torch.ones(4)},
        r"2 parameters are in its files .* such as mtp\.fc\.weight",
    ),
    "a classifier": ({"score.weight": torch.ones(2, 48)}, r"such as score\.weight"),
    "a scale": ({f"{UP}.weight_scale": torch.ones(80, 1)}, "names of quantized weights"),
}


@pytest.mark.parametrize("kind", SURPLUS)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_parameter_without_a_place_is_named(folder, kind, form):
    tensors, message = SURPLUS[kind]
    rewrite(folder, lambda own: own | tensors)
    if form == "bin":
        as_bin(folder)
    with pytest.raises(UnsupportedModel, match=message):
        read(folder)


def test_numbers_that_are_made_anew_may_lie_in_the_files(folder):
    rewrite(folder, lambda own: own | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})
    assert torch.equal(logits(read(folder)), logits(hf_llama()))


SMALL: dict[str, Any] = {"vocab_size": 122, "bos_token_id": 0, "eos_token_id": 0}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_an_ignore_list_of_an_architecture_hides_masks_and_no_parameter(tmp_path, family):
    if family == "gpt2":
        module: Any = GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=64, **SMALL))
        place = "transformer.h.0.attn"
    else:
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
        module = GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=64, **sizes, **SMALL))
        place = "gpt_neox.layers.0.attention"
    module.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    mask = {f"{place}.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8), f"{place}.masked_bias": torch.tensor(-1e9)}
    rewrite(tmp_path / "model", lambda own: own | mask)
    read(tmp_path / "model")
    rewrite(tmp_path / "model", lambda own: own | {f"{place}.bias": torch.ones(72)})
    assert f"{place}.bias" in refusal(tmp_path / "model")


def test_names_without_the_models_prefix_have_a_place_as_those_of_gpt2_on_the_hub(tmp_path):
    module = GPT2LMHeadModel(GPT2Config(n_embd=24, n_layer=2, n_head=3, n_positions=64, **SMALL)).eval()
    module.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    mask = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8) for layer in range(2)}
    rewrite(
        tmp_path / "model",
        lambda own: (
            {key.removeprefix("transformer."): one for key, one in own.items() if key != "lm_head.weight"} | mask
        ),
    )
    assert torch.equal(logits(read(tmp_path / "model")), logits(module))
    rewrite(tmp_path / "model", lambda own: own | {"h.2.attn.bias": torch.ones(72)})
    assert "h.2.attn.bias" in refusal(tmp_path / "model")


def test_a_configuration_of_before_that_wants_tuples_is_read_all_the_same(folder):
    change_config(folder, return_dict=False)
    assert torch.equal(logits(read(folder)), logits(hf_llama()))


@pytest.mark.parametrize(("prefix", "writer"), [("module.", "DataParallel"), ("_orig_mod.", r"torch\.compile")])
def test_names_that_a_wrapper_has_left_are_told_by_its_name(folder, prefix, writer):
    rewrite(folder, lambda own: {prefix + key: value for key, value in own.items()})
    with pytest.raises(UnsupportedModel, match=f"all its names begin with '{prefix}', as .*{writer}"):
        read(folder)


def without_head(own: Tensors) -> Tensors:
    return {key.removeprefix("model."): value for key, value in own.items() if key != "lm_head.weight"}


def test_a_model_saved_without_its_head_is_read_if_that_is_its_embedding_and_named_if_not(folder):
    rewrite(folder, without_head)
    assert "1 parameter is not in its files, such as lm_head.weight" in refusal(folder)
    tied = hf_llama(tie_word_embeddings=True)
    tied.save_pretrained(folder)
    rewrite(folder, without_head)
    assert torch.equal(logits(read(folder)), logits(tied))


def test_a_classifier_saved_by_itself_names_both_heads(folder):
    rewrite(
        folder, lambda own: {key: own[key] for key in own if key != "lm_head.weight"} | {"score.weight": torch.ones(2)}
    )
    message = refusal(folder)
    assert "lm_head.weight" in message
    assert "score.weight" in message


def test_a_head_of_its_own_is_used_though_the_configuration_says_it_is_the_embedding(folder):
    untied = hf_llama()
    assert not torch.equal(untied.lm_head.weight, untied.model.embed_tokens.weight)
    change_config(folder, tie_word_embeddings=True)
    assert torch.equal(logits(read(folder)), logits(untied))  # transformers 5 gives these numbers, with a warning
    rewrite(folder, lambda own: own | {"lm_head.weight": own["model.embed_tokens.weight"].clone()})
    module = read(folder)
    assert torch.equal(module.lm_head.weight, module.model.embed_tokens.weight)


def test_a_parameter_of_another_size_is_named_with_both_sizes(folder):
    rewrite(folder, lambda own: own | {f"{UP}.weight": torch.ones(3, 4)})
    assert f"{UP}.weight is 3 x 4 in its files, but 80 x 48 in config.json" in refusal(folder)


def test_whole_numbers_are_no_weights_and_those_of_eight_bits_are(folder):
    weight = hf_llama().model.layers[0].mlp.up_proj.weight
    rewrite(folder, lambda own: own | {f"{UP}.weight": weight.to(torch.float8_e4m3fn)})
    assert torch.equal(read(folder).model.layers[0].mlp.up_proj.weight, weight.to(torch.float8_e4m3fn).float())
    rewrite(folder, lambda own: own | {f"{UP}.weight": (weight * 9).to(torch.int8)})
    assert f"{UP}.weight is stored as I8" in refusal(folder)
    as_bin(folder)
    assert f"{UP}.weight is stored as int8" in refusal(folder)


def test_a_model_of_one_layer_runs(tmp_path):
    hf_llama(layers=1).save_pretrained(tmp_path / "one")
    tokenizer().save_pretrained(tmp_path / "one")
    text = STUDY[: STUDY.index("      - {group: position")].replace("two: {path: two}", "two: {path: one}")
    text = text[: text.index("  table1:")] + text[text.index("  found:") :]
    (tmp_path / "study.yaml").write_text(text)
    said = et("run", tmp_path / "study.yaml", "--out", tmp_path / "runs")
    assert said.exit_code == 0, said.output


QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
    "awq": ({"quant_method": "awq", "bits": 4}, "awq, 4 bits"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    "fp8": ({"quant_method": "fp8"}, "fp8"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "none that is known": ({"quant_method": "of tomorrow"}, "of tomorrow"),
    "none that is named": ({}, "no method named"),
}


def quantized_study(root: Path, place: str = "model") -> Path:
    hf_llama().save_pretrained(root / "model")
    tokenizer().save_pretrained(root / "model")
    text = STUDY.replace("{path: one}", f"{{path: {place}}}").replace("{path: two}", f"{{path: {place}}}")
    (root / "study.yaml").write_text(text)
    return root / "study.yaml"


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_quantized_model_is_one_message_wherever_it_can_be_known(tmp_path, kind):
    written, told = QUANTIZED[kind]
    study = quantized_study(tmp_path)
    assert et("validate", study).exit_code == 0
    change_config(tmp_path / "model", quantization_config=written)
    inspect = ("models", "inspect", tmp_path / "model")
    for command in (("validate", study), ("plan", study), ("run", study, "--out", tmp_path / "runs"), inspect):
        said = et(*command)
        assert said.exit_code == 2, command
        assert f"(quantization_config: {told})" in said.stderr
        assert "accepted: the same model in float32, bfloat16 or float16, or as a GGUF file" in said.stderr
        assert said.stderr.count("\n") == 1
    with pytest.raises(UnsupportedModel, match="its weights are quantized"):
        nnsight_et.load(str(tmp_path / "model"))


def test_a_quantized_part_of_a_model_counts_and_null_does_not(folder):
    change_config(folder, quantization_config=None)
    read(folder)
    change_config(folder, text_config={"quantization_config": {"quant_method": "gptq"}})
    assert "its weights are quantized" in refusal(folder)


def test_a_quantized_model_in_the_hubs_cache_is_told_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    study = quantized_study(tmp_path, "some-org/some-model")
    assert et("validate", study).exit_code == 0
    cached = tmp_path / "hub" / "models--some-org--some-model"
    shutil.copytree(tmp_path / "model", cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    assert et("validate", study).exit_code == 0
    change_config(cached / "snapshots" / "0123", quantization_config={"quant_method": "awq"})
    said = et("validate", study)
    assert said.exit_code == 2
    assert "(quantization_config: awq)" in said.stderr
    assert et("validate", study, "--set", "backend=ndif").exit_code == 0  # there, the server has the weights


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n"
ANNEX = b"/annex/objects/SHA256E-s4--0123.safetensors\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize(("content", "kind"), [(LFS, "Git LFS pointer"), (ANNEX, "git-annex pointer")])
def test_a_pointer_in_place_of_a_file_is_called_one(folder, name, content, kind):
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert str(folder / name) in message
    assert kind in message


def test_a_link_to_nothing_and_an_empty_file_are_told(folder):
    file = folder / "model.safetensors"
    file.write_bytes(b"")
    assert f"{file} is empty" in refusal(folder)
    file.unlink()
    file.symlink_to("../.git/annex/objects/not/here")
    assert "git annex get" in refusal(folder)


def gpt2_words(folder: Path) -> None:
    """A tokenizer of two files in place of tokenizer.json."""
    for file in folder.glob("tokenizer*"):
        file.unlink()
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", "a", "b", "c", "ab", "bc"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


def test_the_fingerprint_is_of_every_file_that_decides_tokens(folder, tmp_path):
    gpt2_words(folder)
    spec = ModelSpec(str(folder))
    prints, coded = [], []
    for number, merges in enumerate(("a b", "b c")):
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        prints.append(download_files("mine", spec).fingerprint)
        again = shutil.copytree(folder, tmp_path / str(number))  # a folder's tokenizer is read once
        coded.append(tokenizer_of(download_files("mine", ModelSpec(str(again))))("abc")["input_ids"])
    assert coded == [[4, 3], [1, 5]]
    for name in ("vocab.txt", "spiece.model", "tokenizer.model.v3", "added_tokens.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
        prints.append(download_files("mine", spec).fingerprint)
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_is_of_no_file_that_decides_nothing(folder):
    spec = ModelSpec(str(folder))
    first = download_files("mine", spec).fingerprint
    for name in ("README.md", "merges.txt", "vocab.txt", "chat_template.jinja", "consolidated.00.pth", "optimizer.pt"):
        (folder / name).write_text("words")  # beside tokenizer.json, the second and third are not read
    assert download_files("mine", spec).fingerprint == first


def test_fingerprints_of_before_are_those_of_today():
    spec = ModelSpec(str(EMBEDDED / "llama-tiny"), tokenizer=str(EMBEDDED / "tokenizer"))
    assert download_files("llama-tiny", spec).fingerprint == "5addb4ab20efaca4a32ff4301a3344d0"


def test_shards_in_bin_files_count_by_whatever_name_and_are_read(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{part}-of-00002.bin" for part in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(sorted(tensors))}
    for name in names:
        torch.save({key: tensors[key] for key in places if places[key] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(logits(read(folder)), logits(hf_llama()))
    first = download_files("mine", ModelSpec(str(folder))).fingerprint
    torch.save({key: tensors[key] + 1 for key in places if places[key] == names[1]}, folder / names[1])
    assert download_files("mine", ModelSpec(str(folder))).fingerprint != first


def test_what_decides_tokens_is_fetched_from_the_hub():
    for name in ("merges.txt", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "tekken.json", "a.jinja"):
        assert any(Path(name).match(pattern) for pattern in FETCHED), name
    for name in ("consolidated.00.pth", "modeling_mine.py", "README.md"):
        assert not any(Path(name).match(pattern) for pattern in (*FETCHED, *WEIGHTS)), name


def named(folder: Path, **tokens: str | None) -> None:
    """Let the tokenizer have these special tokens alone."""
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text())
    kept = {key: value for key, value in written.items() if not key.endswith("_token")}
    path.write_text(json.dumps(kept | tokens))


def test_a_tokenizer_without_special_tokens_is_one_message(folder, tmp_path):
    named(folder)
    with pytest.raises(
        UnsupportedModel, match=r"no special token .*accepted: one with pad_token, eos_token, bos_token"
    ):
        tokenizer_of(download_files("mine", ModelSpec(str(folder))))
    with pytest.raises(UnsupportedModel, match="no special token"):
        nnsight_et.load(str(folder))
    study = quantized_study(tmp_path / "study")
    named(tmp_path / "study" / "model")
    said = et("run", study, "--out", tmp_path / "runs")
    assert said.exit_code == 2
    assert "no special token" in said.stderr


def test_prompts_are_filled_with_a_token_that_the_model_has(folder):
    words = tokenizer()
    words.add_special_tokens({"pad_token": "[PAD]"})  # number 122, where the embedding has 122 rows
    words.save_pretrained(folder)
    model = nnsight_et.load(str(folder), device="cpu")
    assert model.pad == 0
    pair = collate(few_examples((2, 3)), model.pad)
    usual = collate(few_examples((2, 3)), PAD)
    with torch.no_grad():
        scores = [
            model.model.nn._module(one.base.tokens, attention_mask=one.base.mask).logits[:, -1] for one in (pair, usual)
        ]
    torch.testing.assert_close(scores[0], scores[1])


def test_an_unknown_token_fills_prompts_where_there_is_no_other(folder):
    named(folder, unk_token="<unk>")
    assert tokenizer_of(download_files("mine", ModelSpec(str(folder)))).pad_token == "<unk>"


def test_a_folder_that_cannot_be_read_is_one_message(folder):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "model.safetensors").chmod(0)
    assert "cannot be read" in refusal(folder)
