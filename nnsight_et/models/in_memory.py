"""A transformers model that is already in memory -> Model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nnsight
from nnsight import TransformersModel
from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.core.errors import UnsupportedModel, brief, quantity
from nnsight_et.core.notices import Notice
from nnsight_et.models.adapters import base_of
from nnsight_et.models.families import architecture
from nnsight_et.models.load import wrap_model
from nnsight_et.models.model import Model
from nnsight_et.models.stored import quantization_of
from nnsight_et.models.tokenizing import with_padding_token

ATTENTION = ("sdpa", "eager")
PACKED = "torch.ao.nn"  # whose modules hold what torch has quantized, and no parameters


def from_module(
    module: PreTrainedModel | PeftModel | PeftMixedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> Model:
    """The module under nnsight, frozen and in eval mode from now on, its parts checked.

    Of a peft model, with the adapters that are active in it: it stays usable, and shares its weights and layers.
    UnsupportedModel if it is neither such a one nor a plain transformers model, has no head or not all of its numbers,
    its parts do not add up, its attention takes no masks of its own, or the tokenizer has no character offsets. A
    tokenizer without a padding token gets its end or beginning of text as one.
    """
    if isinstance(module, PeftModel | PeftMixedModel):
        module = base_of(module.eval(), name)
    if not isinstance(module, PreTrainedModel):
        accept = "a transformers model, or a peft model of one"
        raise UnsupportedModel(f"{name}: found {type(module).__name__}; accepted: {accept}")
    _check_module(module, name)
    _check_tokenizer(tokenizer, name)
    attention = getattr(module.config, "_attn_implementation", None)
    if attention not in ATTENTION:
        found = f"attn_implementation is {attention!r}"
        raise UnsupportedModel(f"{name}: {found}; accepted: {' or '.join(ATTENTION)}, when the model is loaded")
    with_padding_token(tokenizer, name, module.config.get_text_config().vocab_size)
    nnsight.register("nnsight_et")
    adapted = not any(isinstance(one, BaseTunerLayer) and one.disable_adapters for one in module.modules())
    model = wrap_model(TransformersModel(module, task="text-generation", tokenizer=tokenizer), name)
    return replace(model, adapted=adapted)


def hook_notices(module: PreTrainedModel | PeftModel | PeftMixedModel, name: str) -> list[Notice]:
    """That forward hooks on the model as a whole do nothing here, if it has some; hooks on its parts run as they are.

    Logits are read before the whole's own hooks change them, and what peft puts around a model is not run at all.
    """
    around, whole = list[Any](), module
    if isinstance(module, PeftModel | PeftMixedModel):
        inside: Any = module.base_model
        around, whole = [module, inside], inside.model
    hooked = [type(one).__name__ for one in around if one._forward_hooks or one._forward_pre_hooks]
    hooked += [type(whole).__name__] if whole._forward_hooks else []
    if not hooked:
        return []
    text = f"the forward hooks on {' and on '.join(hooked)} as a whole are ignored and change no number here"
    return [Notice("hooks", name, f"{text}. Hooks on its parts, such as layers or the last norm, still run")]


def _check_module(module: PreTrainedModel, name: str) -> None:
    """Raise UnsupportedModel unless it gives logits of the next token, and its parameters are plain numbers."""
    parts, kind = architecture(module.config, name), type(module).__name__
    paths = {path for path, _ in module.named_modules()}
    lacking = [path for path in (parts.unembedding, parts.layers) if path not in paths]
    if lacking:
        accept = "a model with its next-token head, as AutoModelForCausalLM loads it"
        raise UnsupportedModel(f"{name}: {kind} has no {lacking[0]}, and so no logits; accepted: {accept}")
    empty = [key for key, one in module.named_parameters() if one.is_meta]
    if empty:
        found = f"{quantity(len(empty), 'parameter')} without values (on the meta device), such as {empty[0]}"
        raise UnsupportedModel(f"{name}: {found}; accepted: a model that is entirely in memory")
    if strange := _quantization_text(module):
        accept = "the same model in float32, bfloat16, float16 or float64"
        raise UnsupportedModel(f"{name}: its weights are quantized ({strange}); accepted: {accept}")


def _quantization_text(module: PreTrainedModel) -> str:
    """What shows that some of the parameters are no plain numbers; nothing if they all are."""
    if stored := quantization_of(module.config.to_dict()):
        return ": ".join(stored)
    for key, one in module.named_modules():
        if type(one).__module__.startswith(PACKED):
            return f"{key} is a {type(one).__module__}.{type(one).__name__}"
    small = ((key, one) for key, one in module.named_parameters() if not one.is_floating_point() or one.itemsize == 1)
    return next((f"{key} is {str(one.dtype).removeprefix('torch.')}" for key, one in small), "")


def _check_tokenizer(tokenizer: object, name: str) -> None:
    """Raise UnsupportedModel unless it is a tokenizer of transformers with character offsets."""
    accept = "a fast tokenizer of transformers, as AutoTokenizer.from_pretrained or PreTrainedTokenizerFast makes"
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UnsupportedModel(f"{name}: tokenizer: {brief(tokenizer)}; accepted: {accept}")
    if not tokenizer.is_fast:
        raise UnsupportedModel(f"{name}: its tokenizer has no character offsets; accepted: {accept}")
