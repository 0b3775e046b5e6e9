"""A random model of GPT-2's shape, few numbers wide, and a tokenizer with the words of two tasks, made here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from nnsight_et.tasks.colored_objects import COLORS, OBJECTS, SEEN
from nnsight_et.tasks.greater_than import NOUNS
from nnsight_et.tasks.ioi import NAMES, PLACES, TEMPLATES, THINGS

END = "<|endoftext|>"


def tokenizer(names: int = 20, years: range = range(100), more: str = "") -> PreTrainedTokenizerFast:
    """A word or two digits a token; of the first `names` names, some places, things and nouns; no padding token."""
    words = [END, "<unk>", *NAMES[:names], *PLACES[:4], *THINGS[:4], *NOUNS[:6], *(f"{year:02}" for year in years)]
    colored = [re.sub(r"{\d}", "", SEEN), *COLORS[:8], *[one for one in OBJECTS if one not in THINGS][:8]]
    text = " ".join([*TEMPLATES, "The lasted from the year", "It was at the a there", more, *colored])
    words += re.findall(r"\w+|[^\w\s]", re.sub(r"{\w+}", "", text))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    apart = [pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(r"\d\d"), "isolated")]
    inner.pre_tokenizer = pre_tokenizers.Sequence(apart)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=END, eos_token=END, unk_token="<unk>")


def gpt2(layers: int, heads: int) -> Any:
    """A random GPT-2 for that tokenizer in which heads of every layer matter: large weights, but those of MLPs."""
    torch.manual_seed(0)
    words = len(tokenizer())
    config = GPT2Config(
        n_layer=layers, n_head=heads, n_embd=4 * heads, n_positions=64, vocab_size=words, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        if ".mlp." in name:
            parameter.data *= 0.2
    return model.eval().requires_grad_(False)


def saved(folder: Path, layers: int = 12, heads: int = 12) -> Path:
    """Model and tokenizer in a folder."""
    gpt2(layers, heads).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
