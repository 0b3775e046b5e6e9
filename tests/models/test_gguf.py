"""Models in GGUF files: transformers' numbers, the file's tokenizer, and what is refused rather than lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import nnsight_et
from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.manifest import load
from nnsight_et.models import gguf_file
from nnsight_et.models.catalog import ModelSpec
from nnsight_et.models.files import download_files
from nnsight_et.models.load import load_model, shape_of, tokenizer_of
from nnsight_et.planning.plan import plan
from nnsight_et.results.headers import read_header
from tests.helpers.commands import et
from tests.helpers.gguf_models import LAYERS, vocabulary, write_gguf
from tests.helpers.tiny_model import tokenizer

pytest.importorskip("gguf")
TEXT = "The apple is in Box F"
STUDY = """\
name: packed
models: {mine: {path: model, gguf: tiny.gguf}}
task: {kind: boxes, boxes: 2}
experiments:
  found: {method: path_patching, model: mine, examples: 4, stages: [{group: a, into: logits, at: last, keep: 2}]}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for GGUF files, which the fixture's tests write."""
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def logits(module, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(text).logits


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_weights_are_the_numbers_that_transformers_makes_of_them(place, kind):
    before = write_gguf(place / "tiny.gguf", kind=kind)
    model = nnsight_et.load(str(place), gguf="tiny.gguf", device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(place, gguf_file="tiny.gguf", dtype=torch.float32)
    tokens = torch.tensor([[1, 5, 300, 310, 301]])
    mine = logits(model.model.nn._module, tokens)
    assert torch.equal(mine, logits(theirs, tokens))
    away = (mine - logits(before, tokens)).abs().max()
    assert 0 < away < {"Q8_0": 0.5, "Q4_1": 5, "F16": 0.1}[kind]  # of logits up to 10: blocks lose digits, not weights
    assert model.shape.n_layers == LAYERS


def test_the_dtype_is_the_one_that_was_asked_for(place):
    write_gguf(place / "tiny.gguf")
    model = load_model(
        download_files("mine", ModelSpec(str(place), gguf="tiny.gguf")), dtype="bfloat16", attention="eager"
    )
    assert {parameter.dtype for parameter in model.nn._module.parameters()} == {torch.bfloat16}
    assert model.nn.config._attn_implementation == "eager"


def test_an_adapter_goes_over_it_as_over_any_model(place, tmp_path):
    from peft import LoraConfig, get_peft_model

    before = write_gguf(place / "tiny.gguf")
    adapted = get_peft_model(before, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    model = nnsight_et.load(str(place), gguf="tiny.gguf", adapter=str(tmp_path / "adapter"), device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(place, gguf_file="tiny.gguf", dtype=torch.float32)
    tokens = torch.tensor([[1, 5, 300, 310, 301]])
    plain = logits(theirs, tokens)
    with_it = logits(PeftModel.from_pretrained(theirs, tmp_path / "adapter"), tokens)
    mine = logits(model.model.nn._module, tokens)
    torch.testing.assert_close(mine, with_it, atol=1e-4, rtol=1e-4)
    assert (mine - plain).abs().max() > 0.01


@pytest.mark.parametrize(("adds", "begins"), [(True, True), (False, False), (None, None)])
def test_a_text_begins_with_bos_if_the_file_says_so(place, adds, begins):
    write_gguf(place / "tiny.gguf", adds_bos=adds)
    words = tokenizer_of(download_files("mine", ModelSpec(str(place), gguf="tiny.gguf")))
    theirs = AutoTokenizer.from_pretrained(place, gguf_file="tiny.gguf")(TEXT)["input_ids"]
    coded = words(TEXT, return_offsets_mapping=True)
    plain = [token for token in theirs if token != 1]
    assert [vocabulary()[token] for token in plain] == ["▁The", "▁apple", "▁is", "▁in", "▁Box", "▁F"]
    expected = (
        theirs if begins is None else [1] * begins + plain
    )  # transformers 5.24 reads what the file says, 5.22 not
    assert coded["input_ids"] == expected
    assert [TEXT[start:end].strip() for start, end in coded["offset_mapping"]][-len(plain) :] == TEXT.split()


def test_a_tokenizer_in_files_goes_before_the_one_in_the_gguf(place, tmp_path):
    write_gguf(place / "tiny.gguf")
    spec = ModelSpec(str(place), gguf="tiny.gguf")
    inside = download_files("mine", spec)
    assert inside.tokenizer == place / "tiny.gguf"
    tokenizer().save_pretrained(tmp_path / "words")
    named = download_files("mine", ModelSpec(str(place), gguf="tiny.gguf", tokenizer=str(tmp_path / "words")))
    assert tokenizer_of(named).convert_tokens_to_ids("apple") == tokenizer().convert_tokens_to_ids("apple")
    tokenizer().save_pretrained(place)
    beside = download_files("mine", spec)
    assert beside.tokenizer == place
    assert tokenizer_of(beside).convert_tokens_to_ids("apple") == tokenizer().convert_tokens_to_ids("apple")
    assert inside.fingerprint != beside.fingerprint == named.fingerprint  # the same words, wherever they are


def test_the_fingerprint_is_of_the_file_and_not_of_what_lies_beside_it(place):
    write_gguf(place / "tiny.gguf")
    spec = ModelSpec(str(place), gguf="tiny.gguf")
    first = download_files("mine", spec).fingerprint
    (place / "model.safetensors").write_bytes(b"another model")
    (place / "README.md").write_text("words")
    (place / "other.gguf").write_bytes(b"another one")
    assert download_files("mine", spec).fingerprint == first
    write_gguf(place / "tiny.gguf", adds_bos=False)
    assert download_files("mine", spec).fingerprint != first


def test_sizes_and_report_come_from_the_file(place, tmp_path):
    write_gguf(place / "tiny.gguf", kind="Q4_1")
    assert shape_of(download_files("mine", ModelSpec(str(place), gguf="tiny.gguf"))).n_kv_heads == 2
    (tmp_path / "study.yaml").write_text(STUDY)
    for command in (("validate", tmp_path / "study.yaml"), ("plan", tmp_path / "study.yaml")):
        assert et(*command).exit_code == 0
    said = et("models", "inspect", "mine", "--manifest", tmp_path / "study.yaml")
    assert "GGUF Q4_1, dequantised" in said.output
    assert "GGUF Q4_1, dequantised" in et("models", "inspect", place / "tiny.gguf").output
    said = et("run", tmp_path / "study.yaml", "--out", tmp_path / "runs")
    assert said.exit_code == 0, said.output
    assert "Converting" not in said.stderr
    (result,) = (tmp_path / "runs").glob("*/*/found")
    assert read_header(result).models[0].description == "model/tiny.gguf: GGUF Q4_1, dequantised"


def test_a_job_is_called_as_before_unless_a_file_is_named(tmp_path):
    text = STUDY.replace(", gguf: tiny.gguf", "")
    (tmp_path / "with.yaml").write_text(STUDY)
    (tmp_path / "without.yaml").write_text(text)
    jobs = [plan(load(tmp_path / name)).jobs[0] for name in ("with.yaml", "without.yaml")]
    assert jobs[0].models[0].identity["gguf"] == "tiny.gguf"
    assert "gguf" not in jobs[1].models[0].identity
    assert jobs[0].id != jobs[1].id


def refusal(place: Path, gguf: str = "tiny.gguf", **spec) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        load_model(download_files("mine", ModelSpec(str(place), gguf=gguf, **spec)))
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert "accepted" in message
    assert "\n" not in message
    return message


def test_a_parameter_that_transformers_does_not_read_is_named(place):
    write_gguf(place / "tiny.gguf", tensors={"blk.1.attn_q.bias": np.ones(64, np.float32)})
    assert "such as blk.1.attn_q.bias" in refusal(place)
    write_gguf(place / "tiny.gguf", tensors={"rope_freqs.weight": np.full(8, 2.0, np.float32)})
    assert "rope_freqs.weight" in refusal(place)
    write_gguf(place / "tiny.gguf", tensors={"rope_freqs.weight": np.ones(8, np.float32)})  # divides by 1
    load_model(download_files("mine", ModelSpec(str(place), gguf="tiny.gguf")))


def test_a_setting_that_transformers_does_not_read_is_named(place):
    from gguf import RopeScalingType

    write_gguf(place / "tiny.gguf", said=lambda writer: writer.add_rope_scaling_type(RopeScalingType.YARN))
    assert "rope.scaling.type: yarn" in refusal(place)
    write_gguf(place / "tiny.gguf", said=lambda writer: writer.add_sliding_window(16))
    assert "attention.sliding_window: 16" in refusal(place)
    write_gguf(place / "tiny.gguf", said=lambda writer: writer.add_sliding_window(128))  # as long as any prompt
    load_model(download_files("mine", ModelSpec(str(place), gguf="tiny.gguf")))


def test_one_part_of_several_is_refused(place):
    write_gguf(place / "tiny.gguf", said=lambda writer: writer.add_uint16("split.count", 3))
    assert "one of 3 parts" in refusal(place)


@pytest.mark.parametrize("keep", [0, 2, 100, 3000, -1000])
def test_a_file_cut_short_is_one_message(place, keep):
    write_gguf(place / "tiny.gguf")
    (place / "tiny.gguf").write_bytes((place / "tiny.gguf").read_bytes()[:keep])
    assert "tiny.gguf" in refusal(place)


def test_a_file_that_is_not_there_is_named_with_those_that_are(place, tmp_path):
    write_gguf(place / "tiny.gguf")
    assert "a GGUF file in it (tiny.gguf)" in refusal(place, "other.gguf")
    with pytest.raises(UnsupportedModel, match=r"or gguf: tiny\.gguf beside path in the manifest"):
        download_files("mine", ModelSpec(str(place)))
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UnsupportedModel, match=r"no weights .* or gguf: tiny\.gguf"):
        download_files("mine", ModelSpec(str(place)))


def test_without_its_package_the_install_is_named(place, monkeypatch):
    write_gguf(place / "tiny.gguf")
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedModel, match=r"pip install 'nnsight-et\[gguf\]'"):
        load_model(download_files("mine", ModelSpec(str(place), gguf="tiny.gguf")))


def test_a_server_does_not_read_it(place, tmp_path):
    write_gguf(place / "tiny.gguf")
    (tmp_path / "study.yaml").write_text(STUDY + "backend: simulate\n")
    said = et("run", tmp_path / "study.yaml", "--out", tmp_path / "runs")
    assert said.exit_code == 2
    assert "can only be read on this machine" in said.stderr


def test_a_name_that_is_no_gguf_file_is_a_mistake_of_the_manifest(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("tiny.gguf", "model.safetensors"))
    said = et("validate", tmp_path / "study.yaml")
    assert said.exit_code == 2
    assert "gguf" in said.stderr
