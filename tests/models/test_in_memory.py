"""Models and tokenizers in memory: what is none, or is not whole, is one message; what was not asked for stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaForSequenceClassification,
    PythonBackend,
    ViTConfig,
    ViTModel,
)

import nnsight_et as et
from nnsight_et.core.errors import ManifestError, NnsightEtError, UnsupportedModel
from nnsight_et.models.in_memory import from_module
from tests.helpers.tiny_model import hf_llama, tokenizer

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class Slow(PythonBackend):
    """A tokenizer without character offsets."""

    @property
    def vocab_size(self) -> int:
        return 2

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1}


def without_numbers() -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(hf_llama().config)


def changed(change: Callable[[Any], Any]) -> Any:
    module = hf_llama()
    change(module)
    return module


def whole_numbers(module: Any) -> None:
    up = module.model.layers[0].mlp.up_proj
    up.weight = torch.nn.Parameter(up.weight.to(torch.int8), requires_grad=False)


def said_to_be_quantized(module: Any) -> None:
    module.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def packed(module: Any) -> None:
    """As torch.ao.quantization.quantize_dynamic leaves it: modules without parameters."""
    place = {"__module__": "torch.ao.nn.quantized.dynamic"}
    module.model.layers[0].mlp.up_proj = type("Linear", (torch.nn.Module,), place)()


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "without its head": (lambda: hf_llama().model, "LlamaModel has no lm_head, and so no logits; accepted: a"),
    "another family without its head": (lambda: GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2)), "no lm_head"),
    "a classifier": (lambda: LlamaForSequenceClassification(hf_llama().config), "Classification has no lm_head"),
    "an encoder": (lambda: BertModel(BertConfig(vocab_size=9, **SIZES)), "architecture 'bert' is not known"),
    "of images": (lambda: ViTModel(ViTConfig(image_size=16, **SIZES)), "architecture 'vit' is not known"),
    "without numbers": (without_numbers, "parameters without values (on the meta device), such as model.embed_tokens"),
    "a layer without numbers": (lambda: changed(lambda one: one.model.layers[1].to("meta")), "such as model.layers.1."),
    "whole numbers": (lambda: changed(whole_numbers), "quantized (model.layers.0.mlp.up_proj.weight is int8)"),
    "numbers of a byte": (lambda: hf_llama().to(torch.float8_e4m3fn), "weight is float8_e4m3fn); accepted: the same"),
    "quantized by torch": (lambda: changed(packed), "layers.0.mlp.up_proj is a torch.ao.nn.quantized.dynamic.Linear)"),
    "quantized by its configuration": (lambda: changed(said_to_be_quantized), "(quantization_config: bitsandbytes, 8"),
    "two dtypes": (lambda: changed(lambda one: one.model.layers[1].half()), "it cannot be run ("),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_gives_no_logits_or_is_not_of_plain_numbers_is_one_message(kind: str):
    made, reason = MODELS[kind]
    with pytest.raises(UnsupportedModel) as caught:
        from_module(made(), tokenizer(), "mine")
    message = str(caught.value)
    assert message.startswith("mine: ")
    assert reason in message
    assert "; accepted: " in message
    assert "\n" not in message


TOKENIZERS: dict[str, tuple[Callable[[], Any], str]] = {
    "of the tokenizers library": (
        lambda: tokenizer().backend_tokenizer,
        "tokenizer: found a Tokenizer; accepted: a fast",
    ),
    "a function": (lambda: str.split, "tokenizer: found a method_descriptor; accepted: a fast tokenizer of transf"),
    "a model": (hf_llama, "tokenizer: found a LlamaForCausalLM; accepted"),
    "without offsets": (lambda: Slow(pad_token="a"), "no character offsets; accepted: a fast tokenizer"),
    "a name": (lambda: "org/name", "tokenizer: a model in memory needs its own; accepted"),
    "none": (lambda: None, "tokenizer: a model in memory needs its own; accepted"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_is_no_tokenizer_with_offsets_is_one_message(kind: str):
    made, reason = TOKENIZERS[kind]
    with pytest.raises(NnsightEtError) as caught:
        et.load(hf_llama(), made())
    assert reason in str(caught.value)


OTHERS: dict[str, Any] = {"adapter": "org/name", "gguf": "a.gguf", "dtype": torch.bfloat16, "attention": "eager"}


@pytest.mark.parametrize("key", OTHERS)
def test_an_option_that_a_model_in_memory_does_not_follow_is_refused(key: str):
    module: Any = hf_llama()
    with pytest.raises(ManifestError, match=rf"^{key}: .* model in memory.*; accepted: "):
        et.load(module.train(), tokenizer(), **{key: OTHERS[key]})
    assert module.training  # it is left as it was


def test_a_device_that_is_not_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for wanted in ("cuda", "cuda:0", "balanced", "auto"):
        with pytest.raises(ManifestError, match=r"^device: .*, but the model in memory has cpu; accepted: cpu"):
            et.load(hf_llama(), tokenizer(), device=wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_options_that_say_what_it_is_are_accepted_and_nothing_need_be_said(dtype: torch.dtype):
    module = hf_llama(dtype=dtype)
    assert et.load(module, tokenizer()).model.dtype == dtype
    assert et.load(module, tokenizer(), dtype=dtype, device="cpu", attention="sdpa").model.dtype == dtype


def test_a_model_with_fewer_layers_than_its_configuration_says_is_refused():
    module = hf_llama()
    module.model.layers = module.model.layers[:2]
    with pytest.raises(UnsupportedModel, match="its configuration says 3 layers, but it has 2; accepted"):
        et.load(module, tokenizer())
    module.config.num_hidden_layers = 2
    assert et.load(module, tokenizer()).shape.n_layers == 2


def doubled(_module: Any, _inputs: Any, output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return 2 * output
    output.logits = 2 * output.logits
    return output


def scores(model: et.LoadedModel) -> list[float]:
    pair = (
        "The {{o|book}} is in Box F. Box F contains the",
        "The {{o|car}} is in Box Q. Box Z contains the",
        "book",
    )
    return et.path_patch(replace(model, probe="off"), et.Pairs.of([pair]), at="last").scores["score"].tolist()


def test_hooks_on_parts_are_kept_and_those_on_the_whole_are_told_to_be_left_out():
    plain, part, whole = hf_llama(), hf_llama(), hf_llama()
    part.model.norm.register_forward_hook(doubled)
    whole.register_forward_hook(doubled)
    loaded = [et.load(module, tokenizer()) for module in (plain, part, whole)]
    assert [[notice.kind for notice in model.notices] for model in loaded] == [[], [], ["hooks"]]
    assert "the forward hooks on LlamaForCausalLM as a whole are ignored" in loaded[2].notices[0].text
    unhooked, of_part, of_whole = map(scores, loaded)
    assert of_whole == unhooked != of_part


def test_hooks_on_what_peft_puts_around_a_model_are_told_to_be_left_out():
    adapted = get_peft_model(hf_llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert et.load(adapted, tokenizer()).notices == ()
    adapted.register_forward_pre_hook(lambda *_: None)
    (notice,) = et.load(adapted, tokenizer()).notices
    assert "on PeftModelForCausalLM as a whole are ignored" in notice.text
