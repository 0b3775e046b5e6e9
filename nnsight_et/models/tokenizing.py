"""Tokenizers as files have them: read, told what is wrong with them, and given a padding token."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nnsight_et.core.errors import UnsupportedModel
from nnsight_et.models.files import Files, check_no_code
from nnsight_et.models.gguf_file import tokenizer_in


@cache
def read_tokenizer(place: Path, own: Files | None = None) -> PreTrainedTokenizerBase:
    """That of a folder, or of a GGUF file; one by itself for `own` files. LOADING_ERRORS if it cannot be read."""
    if place.is_file():
        return tokenizer_in(place)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    tokenizer("")  # a damaged template of special tokens is found by encoding alone
    return tokenizer


def check_tokenizing(files: Files) -> None:
    """Raise UnsupportedModel if the tokenizer needs a program that came with it, or a package that is not here."""
    if files.tokenizer.is_file():
        return
    check_no_code(files.name, files.tokenizer, "tokenizer_config.json")
    alone = [] if (files.tokenizer / "tokenizer.json").exists() else sorted(files.tokenizer.glob("*.model"))
    if alone and find_spec("sentencepiece") is None:
        found = f"{files.name}: its tokenizer is in {alone[0]} alone, which another package reads"
        raise UnsupportedModel(f"{found}; accepted: after pip install sentencepiece; or one with tokenizer.json")


def with_padding_token(tokenizer: PreTrainedTokenizerBase, name: str, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token that is among the `rows` of the model's embedding.

    It is its own, or else another special one: any other would no longer be read as a part of texts. UnsupportedModel
    if there is none.
    """
    if not _is_among(tokenizer.pad_token_id, rows):
        for token in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
            if token is not None and _is_among(tokenizer.convert_tokens_to_ids(str(token)), rows):
                tokenizer.pad_token = token
                return tokenizer
        found = f"{name}: its tokenizer has no special token that the model knows, to fill shorter prompts with"
        raise UnsupportedModel(f"{found}; accepted: one with pad_token, eos_token, bos_token or unk_token")
    return tokenizer


def _is_among(number: object, rows: int) -> bool:
    return isinstance(number, int) and 0 <= number < rows
