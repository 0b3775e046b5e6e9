"""A transformers model that is already in memory -> Model."""

from __future__ import annotations

import nnsight
from nnsight import TransformersModel
from peft import PeftMixedModel, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nnsight_et.errors import UnsupportedModel
from nnsight_et.models.adapters import base_of
from nnsight_et.models.load import wrapped
from nnsight_et.models.model import Model
from nnsight_et.models.tokenizing import padded

ATTENTION = ("sdpa", "eager")


def of_module(
    module: PreTrainedModel | PeftModel | PeftMixedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> Model:
    """The module under nnsight, frozen and in eval mode from now on, its parts checked.

    Of a peft model, with the adapters that are active in it: it stays usable, and shares its weights and layers.
    UnsupportedModel if it is neither such a one nor a plain transformers model, its parts do not add up, its attention
    takes no masks of its own, or the tokenizer has no character offsets. A tokenizer without a padding token gets its
    end or beginning of text as one.
    """
    if isinstance(module, PeftModel | PeftMixedModel):
        module = base_of(module.eval(), name)
    if not isinstance(module, PreTrainedModel):
        accept = "a transformers model, or a peft model of one"
        raise UnsupportedModel(f"{name}: found {type(module).__name__}; accepted: {accept}")
    if not tokenizer.is_fast:
        raise UnsupportedModel(f"{name}: its tokenizer has no character offsets; accepted: a fast tokenizer")
    attention = getattr(module.config, "_attn_implementation", None)
    if attention not in ATTENTION:
        found = f"attn_implementation is {attention!r}"
        raise UnsupportedModel(f"{name}: {found}; accepted: {' or '.join(ATTENTION)}, when the model is loaded")
    padded(tokenizer, name, module.config.get_text_config().vocab_size)
    nnsight.register("nnsight_et")
    return wrapped(TransformersModel(module, task="text-generation", tokenizer=tokenizer), name)
