"""Random models and small batches of unequal sizes, so that a swapped axis fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nnsight_et.core.batch import Example, Pair, Side, collate
from nnsight_et.models.load import wrap_model
from nnsight_et.models.model import Model
from nnsight_et.tasks.boxes import LABELS, OBJECTS, Boxes

PAD = 1


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, <s> in front: the boxes prompts have the token positions they have with Llama's tokenizer."""
    words = ["<s>", "<pad>", "<unk>", "The", "the", "is", "in", "Box", "contains", ",", ".", *OBJECTS, *LABELS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")


def hf_llama(layers: int = 3, heads: int = 4, kv_heads: int = 2, dtype=torch.float32, seed: int = 0, **config) -> Any:
    """A random Llama whose weights, and biases if it has any, are large enough that every head matters."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "head_dim": 10,
        "vocab_size": 122,
        "max_position_embeddings": 128,
    }
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
            initializer_range=0.2, **(sizes | config),
        )
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):  # made as zeros, which would hide a bias that is forgotten
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval().requires_grad_(False)


def tiny_model(module, attention: str = "sdpa") -> Model:
    """The module under nnsight, as the package's Model."""
    module.set_attn_implementation(attention)
    nn = TransformersModel(module, task="text-generation", tokenizer=tokenizer())
    return wrap_model(nn, "tiny")


def few_examples(boxes: Sequence[int], seed: int = 0) -> list[Example]:
    """One example per entry of `boxes`, with that many boxes; each takes the next one's source, so lengths differ."""
    words = tokenizer()
    made = [Boxes(count).examples(words, row + 1, seed, "discovery")[row] for row, count in enumerate(boxes)]
    return [Example(one.base, other.source, one.answer) for one, other in zip(made, [*made[1:], made[0]], strict=True)]


def few_pairs(boxes: Sequence[int] = (2, 3, 2), side: Side = "left", seed: int = 0) -> Pair:
    """Those examples as one padded batch."""
    return collate(few_examples(boxes, seed), PAD, side)


def change_config(folder: Path, **changes) -> None:
    """Write other values into a model's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
