"""Tokenizers as they come: with more special tokens than wanted, fewer, others, or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from .case import APPLES, BASE, Given, Line, case
from .plain import (
    base_folder,
    base_model,
    base_tokenizer,
    byte_level,
    edit,
    gpt2,
    ids_of,
    llama,
    of_folder,
    probabilities,
    probability,
    save,
    sentencepiece,
)

AREA = "tokenizers"
SPECIAL = ("pad_token", "eos_token", "bos_token", "unk_token")
SOURCE = APPLES[0].source
FEW = (
    *("The", "apple", "is", "in", "Box", "F", ",", "the", "computer", "Q", ".", "contains", "hat", "bread"),
    *("drug", "ball", "H", "C", "Y", "B", "E", "P"),
)


def appends(content: dict[str, Any], *tokens: str) -> None:
    """Let the tokenizer put tokens behind every text."""
    for token in tokens:
        number = next(one["id"] for one in content["added_tokens"] if one["content"] == token)
        processor = content["post_processor"]
        processor["single"].append({"SpecialToken": {"id": token, "type_id": 0}})
        processor["special_tokens"][token] = {"id": token, "ids": [number], "tokens": [token]}


@case(AREA, "an end of text behind every text (a post-processor adds </s>)")
def appends_eos(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer.json", lambda content: appends(content, "</s>"))
    assert AutoTokenizer.from_pretrained(made)("The apple")["input_ids"][-1] == 2
    return Given({"path": str(made)}, of_folder(made), reason="EOS|</s>|end of text")


@case(AREA, "the same, on the boxes task")
def appends_eos_boxes(folder: Path) -> Given:
    import nnsight_et as et

    made = base_folder(folder)
    edit(made / "tokenizer.json", lambda content: appends(content, "</s>"))
    pairs = et.Pairs.boxes(4, boxes=2)
    lines = [Line(pair.base.text, pair.source.text, str(pair.answer)) for pair in pairs]
    return Given(
        {"path": str(made)},
        probabilities(base_model(), base_tokenizer(), lines),
        reason="EOS|</s>|end of text",
        task={"kind": "boxes", "boxes": 2},
        experiment={"examples": 4},
        call=lambda model: et.path_patch(model, pairs),
    )


@case(AREA, "no special tokens at all, no padding")
def no_special(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer_config.json", lambda content: [content.pop(key, None) for key in SPECIAL])
    kinds = ("pad_token_id", "bos_token_id", "eos_token_id")
    edit(made / "config.json", lambda content: [content.pop(key, None) for key in kinds])
    return Given({"path": str(made)}, of_folder(made), reason="pad|special token")


@case(AREA, "no padding and no end of text, a beginning alone")
def bos_alone(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer_config.json", lambda content: [content.pop(key, None) for key in ("pad_token", "eos_token")])
    return Given({"path": str(made)}, of_folder(made))


@case(AREA, "bos: add, where the tokenizer puts no beginning of text before prompts")
def bos_added(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer.json", lambda content: content.update(post_processor=None))
    return Given({"path": str(made), "bos": "add"}, probabilities(base_model(), base_tokenizer()))


@case(AREA, "bos: none, where the tokenizer puts one")
def bos_removed(folder: Path) -> Given:
    tokenizer, apple = base_tokenizer(), base_tokenizer().convert_tokens_to_ids("apple")
    expected = [probability(base_model(), ids_of(tokenizer, line.prompt)[1:], apple) for line in APPLES]
    return Given({"path": str(base_folder(folder)), "bos": "none"}, expected)


@case(AREA, "no beginning of text before prompts, as the tokenizer has it")
def no_bos(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer.json", lambda content: content.update(post_processor=None))
    tokenizer, model = AutoTokenizer.from_pretrained(made), base_model()
    assert tokenizer("The apple")["input_ids"][0] != 1
    apple = tokenizer.convert_tokens_to_ids("apple")
    expected = [probability(model, ids_of(tokenizer, line.prompt), apple) for line in APPLES]
    return Given({"path": str(made)}, expected)


@case(AREA, "byte-level BPE without a beginning of text, as GPT-2 and Qwen")
def bytes_no_bos(folder: Path) -> Given:
    tokenizer = byte_level()
    return right(save(gpt2(tokenizer), tokenizer, folder / "model"))


@case(AREA, "byte-level BPE with a beginning of text, as Llama-3")
def bytes_bos(folder: Path) -> Given:
    tokenizer = byte_level(bos=True)
    return right(save(llama(tokenizer), tokenizer, folder / "model"))


@case(AREA, "SentencePiece that puts a space before every text, as Llama-2")
def metaspace(folder: Path) -> Given:
    tokenizer = sentencepiece()
    return right(save(llama(tokenizer), tokenizer, folder / "model"))


@case(AREA, "SentencePiece without a space before texts, as Gemma")
def no_prefix(folder: Path) -> Given:
    tokenizer = sentencepiece(prepend=False)
    return right(save(llama(tokenizer), tokenizer, folder / "model"))


@case(AREA, "Unigram with the Metaspace pre-tokenizer")
def unigram(folder: Path) -> Given:
    words = [f"▁{word}" for word in FEW[:17]]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((word, -3.0) for word in words)]
    pieces += [(one, -9.0) for one in sorted({one for word in words for one in word} | set("YCBEP"))]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    return right(save(llama(tokenizer), tokenizer, folder / "model"))


def right(folder: Path, lines: tuple[Line, ...] = APPLES, reason: str | None = None, **more: Any) -> Given:
    """A folder, and what transformers gives."""
    return Given({"path": str(folder)}, of_folder(folder, lines), lines, reason, **more)


@case(AREA, "vocab.json and merges.txt without tokenizer.json, as GPT-2's first folders")
def merges(folder: Path) -> Given:
    tokenizer = byte_level()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    model = json.loads((made / "tokenizer.json").read_text())["model"]
    (made / "vocab.json").write_text(json.dumps(model["vocab"]))
    (made / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    (made / "tokenizer.json").unlink()
    words = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (made / "tokenizer_config.json").write_text(json.dumps(words | {"unk_token": "<|endoftext|>"}))
    return right(made)


@case(AREA, "a slow tokenizer, without offsets (ByT5's bytes)")
def slow_alone(folder: Path) -> Given:
    made = base_folder(folder)
    (made / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(made)
    return Given({"path": str(made)}, reason="offset|fast|tokenizer.json", early=True)


@case(AREA, "a truncated tokenizer.json")
def truncated(folder: Path) -> Given:
    made = base_folder(folder)
    text = (made / "tokenizer.json").read_text()
    (made / "tokenizer.json").write_text(text[: len(text) // 2])
    return Given({"path": str(made)}, reason=r"tokenizer", early=True)


@case(AREA, "a tokenizer.json that is whole JSON and no tokenizer")
def no_tokenizer(folder: Path) -> Given:
    made = base_folder(folder)
    (made / "tokenizer.json").write_text('{"version": "1.0"}')
    return Given({"path": str(made)}, reason=r"tokenizer", early=True)


@case(AREA, "a tokenizer_config.json of a class that nobody knows")
def unknown_class(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer_config.json", lambda content: content.update(tokenizer_class="MineTokenizer"))
    return Given({"path": str(made)}, of_folder(base_folder(folder, "plain")), reason="tokenizer|MineTokenizer")


@case(AREA, "no tokenizer in the folder")
def without(folder: Path) -> Given:
    made = base_folder(folder)
    for path in made.glob("tokenizer*"):
        path.unlink()
    return Given({"path": str(made)}, reason="tokenizer", early=True)


@case(AREA, "added tokens that the prompts use, the embedding resized")
def added(folder: Path) -> Given:
    tokenizer, model = base_tokenizer(), base_model()
    tokenizer.add_tokens(["zeppelin"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base = "<|user|> The {{object|zeppelin}} is in Box F, the computer is in Box Q. Box F contains the"
    line = Line(base, f"<|user|> {SOURCE}", "zeppelin")
    return right(save(model, tokenizer, folder / "model"), (line,))


@case(AREA, "added tokens that the prompts use, the embedding left as it was")
def added_not_resized(folder: Path) -> Given:
    tokenizer = base_tokenizer()
    tokenizer.add_tokens(["zeppelin"])
    line = Line(BASE.replace("apple", "zeppelin"), SOURCE, "zeppelin")
    made = save(base_model(), tokenizer, folder / "model")
    return Given({"path": str(made)}, lines=(line,), reason="28[34]|zeppelin|vocab|embedding")


@case(AREA, "another model's tokenizer, with numbers of tokens that the model has no row for")
def anothers(folder: Path) -> Given:
    made = base_folder(folder)
    byte_level().save_pretrained(made)
    return Given({"path": str(made)}, reason="283|vocab|embedding|token")


@case(AREA, "a special token in the text that takes the spaces beside it (lstrip, rstrip)")
def strips(folder: Path) -> Given:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<sep>", lstrip=True, rstrip=True)]})
    line = Line("The {{object|apple}} <sep> is in Box F <sep> contains the", "The {{object|hat}} <sep> is in", "apple")
    return right(save(llama(tokenizer), tokenizer, folder / "model"), (line,))


@case(AREA, "texts that begin with the beginning of text, which the tokenizer adds as well")
def doubled_bos(folder: Path) -> Given:
    line = Line(f"<s>{BASE}", f"<s>{SOURCE}", "apple")
    made, tokenizer = base_folder(folder), base_tokenizer()
    single = probabilities(base_model(), tokenizer)[0]
    return Given({"path": str(made)}, [single], (line,), reason=r"twice|two|<s>|special_tokens", notice=None)


@case(AREA, "texts that begin with a token which is also the unknown token, as SmolLM2's <|endoftext|>")
def unknown_is_used(folder: Path) -> Given:
    tokenizer = byte_level(unk_token="<|endoftext|>")
    line = Line(f"<|endoftext|>{BASE}", f"<|endoftext|>{SOURCE}", "apple")
    return right(save(llama(tokenizer), tokenizer, folder / "model"), (line,))


@case(AREA, "a text with the end of text between two documents")
def two_documents(folder: Path) -> Given:
    tokenizer = byte_level(unk_token="<|endoftext|>")
    line = Line(f"Answer<|endoftext|>{BASE}", f"Question<|endoftext|>{SOURCE}", "apple")
    return right(save(llama(tokenizer), tokenizer, folder / "model"), (line,))


@case(AREA, "tokenizer.json with truncation to 8 tokens and padding to 64 saved in it")
def saved_truncation(folder: Path) -> Given:
    made = base_folder(folder)
    inner = Tokenizer.from_file(str(made / "tokenizer.json"))
    inner.enable_truncation(8)
    inner.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    inner.save(str(made / "tokenizer.json"))
    return Given({"path": str(made)}, of_folder(base_folder(folder, "plain")))


@case(AREA, "model_max_length shorter than the prompts")
def short_maximum(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "tokenizer_config.json", lambda content: content.update(model_max_length=8))
    return Given({"path": str(made)}, of_folder(base_folder(folder, "plain")), reason="model_max_length|longer")


@case(AREA, "a tokenizer that lowers letters and strips accents before it cuts")
def lowers(folder: Path) -> Given:
    words = [*dict.fromkeys(word.lower() for word in FEW), "café", "cafe"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<unk>")
    line = Line(
        "The {{object|Café}} is in Box F. Box F contains the", SOURCE.split(",")[0] + ". Box Y contains the", "Café"
    )
    return right(save(llama(tokenizer), tokenizer, folder / "model"), (line,))


@case(AREA, "two tokens before every text, as ChatGLM's [gMASK]<sop>")
def two_before(folder: Path) -> Given:
    made = base_folder(folder)

    def twice(content: dict[str, Any]) -> None:
        content["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})

    edit(made / "tokenizer.json", twice)
    return Given({"path": str(made)}, of_folder(made), reason="<s>|twice|two")


@case(AREA, "both an end and a beginning of text, on a byte-level BPE where they are one token")
def one_for_both(folder: Path) -> Given:
    tokenizer = byte_level(bos=True)
    made = save(llama(tokenizer), tokenizer, folder / "model")
    edit(made / "tokenizer.json", lambda content: appends(content, "<|endoftext|>"))
    return right(made, reason="EOS|end of text|<|endoftext|>")


@case(AREA, "tokenizer: names a folder with another padding token than config.json has")
def other_padding(folder: Path) -> Given:
    made = base_folder(folder)
    edit(made / "config.json", lambda content: content.update(pad_token_id=-1))
    return Given({"path": str(made)}, of_folder(base_folder(folder, "plain")), reason="pad_token_id")


@case(AREA, "a tokenizer that composes accents (NFC, as Qwen's), texts with decomposed ones")
def composes(folder: Path) -> Given:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    made = save(gpt2(tokenizer), tokenizer, folder / "model")
    apart = "cafe\u0301"
    line = Line(f"The {{{{object|{apart}}}}} is in Box F. Box F contains the", SOURCE, apart)
    return right(made, (line,), "whole tokens")


def built_in(kind: str) -> None:
    """A case of a built-in task on a tokenizer that cuts its words to pieces."""

    @case(AREA, f"the {kind} task on a tokenizer that has no single tokens for its words")
    def make(folder: Path) -> Given:
        tokenizer = byte_level(words=("The", "the", "is", "in"))
        made = save(gpt2(tokenizer), tokenizer, folder / "model")
        return Given({"path": str(made)}, reason="one token|single token", task={"kind": kind}, call=lambda _: None)


for _kind in ("boxes", "ioi", "greater_than"):
    built_in(_kind)
