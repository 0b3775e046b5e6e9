"""From text with marked places to token ids with named positions, for any fast tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnsight_et.batch import Prompt
from nnsight_et.errors import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MarkedText:
    """A text, and named spans of characters [start, end) in it."""

    text: str
    spans: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class MarkedPair:
    """A base text, a source text with the same named spans, and the text that answers the base: its next token.

    also_right: further texts that are right as well; foils: wrong ones, for metrics that compare.
    """

    base: MarkedText
    source: MarkedText
    answer: str
    also_right: tuple[str, ...] = ()
    foils: tuple[str, ...] = ()


def encoded(marked: MarkedText, tokenizer: PreTrainedTokenizerBase, single: bool = True) -> Prompt:
    """The prompt's tokens with each span's token index, and `last`.

    TaskError if a span is not exactly one token; unless `single`, spans may be several whole tokens, and the last one's
    index is the position.
    """
    encoding = tokenizer(marked.text, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    positions = {name: _token_at(marked.text, span, offsets, name, single) for name, span in marked.spans.items()}
    for name, index in positions.items():
        if encoding["input_ids"][index] == tokenizer.unk_token_id:
            word = marked.text[slice(*marked.spans[name])]
            raise TaskError(f"{name}: '{word}' is not one token of this tokenizer (it does not know it)")
    return Prompt(tuple(encoding["input_ids"]), positions | {"last": len(offsets) - 1})


def _token_at(text: str, span: tuple[int, int], offsets: list[tuple[int, int]], name: str, single: bool) -> int:
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
