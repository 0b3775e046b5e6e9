"""From text with marked places to token ids with named positions, for any fast tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import BatchEncoding, PreTrainedTokenizerBase

from nnsight_et.core.batch import Prompt
from nnsight_et.core.errors import TaskError

SpecialTokens = Literal["tokenizer", "text"]
AnswerTokens = Literal["one", "several"]
SOME_TEXT = "the"  # what a tokenizer puts in front of it and behind, it puts there everywhere


@dataclass(frozen=True)
class MarkedText:
    """A text, and named spans of characters [start, end) in it."""

    text: str
    spans: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class MarkedPair:
    """A base text, a source text with the same named spans, and the text that answers the base: what comes next.

    also_right: further texts that are right as well; foils: wrong ones, for metrics that compare. A number in place of
    a text is the id of a token.
    """

    base: MarkedText
    source: MarkedText
    answer: str | int
    also_right: tuple[str | int, ...] = ()
    foils: tuple[str | int, ...] = ()
    space: bool | None = None
    """Whether a space goes between the base and what follows it; None: as `joins` finds it in the texts."""
    special_tokens: SpecialTokens = "tokenizer"
    """Who puts the special tokens that texts begin with: the tokenizer, or the texts themselves."""
    answer_tokens: AnswerTokens = "one"
    """How many tokens the answer, and each text beside it, may have."""
    turns: bool = False
    """Whether base and source are turns of a chat that await the assistant's reply."""
    columns: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)
    """What its file calls base, source, answer, ..., where that is something else."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    """What else its row in a file has."""
    group: str | None = None
    """What keeps it in one split with others."""

    def name(self, key: str) -> str:
        """What its file calls one of its keys."""
        return self.columns.get(key, key)


@dataclass(frozen=True)
class Encoding:
    """The tokens of a text, each with the characters [start, end) that it is made of."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    appended: tuple[int, ...] = ()
    """What the tokenizer puts behind every text, such as an end of text: it is not among the tokens."""


def encode(text: str, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens = "tokenizer") -> Encoding:
    """The text's tokens, after those that the tokenizer puts in front of every text, unless the text has its own.

    What the tokenizer puts behind a text is left off, for the prompt is to go on. TaskError if the text begins with a
    special token that the tokenizer puts there as well.
    """
    made = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special_tokens == "tokenizer")
    ids, own = _ids(made), _ids(tokenizer(text, add_special_tokens=False))
    starts = [at for at in range(len(ids) - len(own) + 1) if ids[at : at + len(own)] == own]
    start, end = (starts[-1], starts[-1] + len(own)) if own and starts else (0, len(ids))
    if own and own[0] in ids[:start]:
        doubled = tokenizer.convert_ids_to_tokens(own[0])
        found = f"the text begins with {doubled!r}, and the tokenizer adds one as well"
        raise TaskError(f"{found}; accepted: the text without it, or special_tokens: text")
    return Encoding(ids[:end], tuple(made["offset_mapping"][:end]), ids[end:])


def _ids(made: BatchEncoding) -> tuple[int, ...]:
    return tuple(made["input_ids"])  # type: ignore[arg-type]


def trailing_tokens(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens that the tokenizer would put behind every text, and that prompts are made without; "" if none."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(encode(SOME_TEXT, tokenizer).appended)))


def check_ends(tokens: tuple[int, ...], tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise TaskError if tokens made elsewhere begin twice as the tokenizer has texts begin, or end with its end."""
    made, own = encode(SOME_TEXT, tokenizer), encode(SOME_TEXT, tokenizer, "text")
    front = made.ids[: len(made.ids) - len(own.ids)]
    if made.appended and tokens[-len(made.appended) :] == made.appended:
        found = f"the tokens end with {trailing_tokens(tokenizer)}, which the tokenizer appends to every text"
        raise TaskError(f"{where}: {found}; accepted: a prompt without it")
    if front and tokens[: len(front) + 1] == (*front, front[-1]):
        doubled = tokenizer.convert_ids_to_tokens(front[-1])
        raise TaskError(f"{where}: the tokens begin with {doubled} twice; accepted: once, as the tokenizer adds it")


def is_unknown(token: int, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the token stands for a text that the tokenizer does not know, and is not written there itself."""
    return token == tokenizer.unk_token_id and text.strip() != tokenizer.unk_token


def encoded_prompt(
    marked: MarkedText,
    tokenizer: PreTrainedTokenizerBase,
    single: bool = True,
    special_tokens: SpecialTokens = "tokenizer",
) -> Prompt:
    """The prompt's tokens with each span's token index, and `last`.

    TaskError if a span is not exactly one token; unless `single`, spans may be several whole tokens, and the last one's
    index is the position.
    """
    made = encode(marked.text, tokenizer, special_tokens)
    positions = {name: _token_at(marked.text, span, made.offsets, name, single) for name, span in marked.spans.items()}
    for name, index in positions.items():
        word = marked.text[slice(*marked.spans[name])]
        if is_unknown(made.ids[index], word, tokenizer):
            raise TaskError(f"{name}: '{word}' is not one token of this tokenizer (it does not know it)")
    return Prompt(made.ids, positions | {"last": len(made.ids) - 1})


def _token_at(text: str, span: tuple[int, int], offsets: Sequence[tuple[int, int]], name: str, single: bool) -> int:
    """The index of the last token of those whose characters are `span`, a space before it allowed."""
    start, end = span
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    if inside and (len(inside) == 1 or not single):
        a, b = offsets[inside[0]][0], offsets[inside[-1]][1]
        if b == end and text[a:start].strip() == "":
            return inside[-1]
    word, pieces = text[start:end], [text[offsets[i][0] : offsets[i][1]] for i in inside]
    found = f"of this tokenizer (found {', '.join(map(repr, pieces)) or 'no token'})"
    if single:
        raise TaskError(f"{name}: '{word}' is not one token {found}; accepted: words that are a single token")
    raise TaskError(f"{name}: '{word}' is not made of whole tokens {found}; accepted: a mark around whole tokens")
