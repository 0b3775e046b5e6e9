"""Small tokenizers of the kinds that models have, with a few words each: bytes and merges, pieces, whole words."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = """The the apple hat fish kind un is in Box contains foo bar self name year year to from happy Oslo capital of
    Norway sun flower loves pizza theme""".split()  # noqa: SIM905
ALONE = ["unkind", "sunflower", "opposite"]  # with a space before them only
CHINESE = ["首都", "法国", "巴黎", "的", "是"]


def byte_level(words: Sequence[str] = WORDS, unknown: str = "<|end|>") -> PreTrainedTokenizerFast:
    """As GPT-2's and SmolLM2's: every byte is a token, and so are the words and " words"; none is put in front.

    The unknown token is a special token that texts begin with.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {unknown: 0, **{one: index for index, one in enumerate(alphabet, start=1)}}, []
    for word in words:
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
    merges += [("Ġ", word) for word in words]
    merges = list(dict.fromkeys(merges))
    for one, other in merges:
        vocabulary.setdefault(one + other, len(vocabulary))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=unknown, eos_token=unknown, pad_token=unknown)
    assert tokenizer.unk_token_id == 0
    return tokenizer


def pieces(scheme: str = "never", end: bool = False, alone: Sequence[str] = ALONE) -> PreTrainedTokenizerFast:
    """As Gemma's ("never") and Llama's ("first"): pieces with ▁ for a space, bytes for what is in none; <s> in front.

    end: whether </s> is put behind every text.
    """
    inside = [*WORDS, *CHINESE, *"abcdefghijklmnopqrstuvwxyzBFTP0123456789.,:()\n\"'-/=<|>_"]
    some = [*(f"▁{word}" for word in (*WORDS, *alone)), *inside, "▁"]
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [(word, 0.0) for word in special] + [(one, -10.0) for one in bytes_]
    vocabulary += [(one, -1.0 - 1 / len(one)) for one in dict.fromkeys(some)]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    single = "<s> $A </s>" if end else "<s> $A"
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def with_end(tokenizer: PreTrainedTokenizerFast, first: str, last: str) -> PreTrainedTokenizerFast:
    """The tokenizer, which from now on puts `last` behind every text, and `first` in front if it is not ""."""
    ids = [(one, tokenizer.convert_tokens_to_ids(one)) for one in dict.fromkeys((first, last)) if one]
    single = " ".join(filter(None, (first, "$A", last)))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer
