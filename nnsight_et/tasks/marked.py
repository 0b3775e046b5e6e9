"""Own pairs of prompts, with named positions marked in the text: "The {{object|apple}} is in Box {{label|B}}."

{{name|text}} names a position; the prompt reads as if only `text` stood there. The position is the last token of the
marked text, which must be whole tokens, a space before them allowed. `last`, the prompt's last token, is always there.
Base and source name the same positions. {{{{ and }}}} are two braces of the text.

The answer is the one token that follows the base prompt, or, with "answer_tokens": "several", the tokens that do; so is
each text beside it. " apple" with its space and "apple" without are two tokens. A
text that begins with its space is taken so. Otherwise `space` decides: "yes" puts a space between prompt and answer,
"no" puts none. Without it the texts decide, by the rules of `joins`, and what is not certain is asked for.

In a file: rows such as {"base": "...", "source": "...", "answer": "..."}, whose columns may have other names (rows/).
More keys are allowed: "foil",
what is wrong, for metrics that compare, and "also_right", what is right as well, each a text or a list of texts, one
token each as the answer is; "space", yes or no; "special_tokens", tokenizer or text: with "text" the tokenizer puts no
special tokens in front, for texts that bring their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import TaskError
from nnsight_et.rows.mapping import (
    ALSO_RIGHT,
    ANSWER_TOKENS,
    FOIL,
    KEYS,
    SPACE,
    SPECIAL,
    Entry,
    PairMapping,
    entries_of,
)
from nnsight_et.rows.read import Data, each_of, read_file, rows_of
from nnsight_et.tasks.answers import answer_tokens
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, SpecialTokens, encode, encoded_prompt, is_unknown
from nnsight_et.tasks.places import with_found
from nnsight_et.tasks.turns import as_turns

PLAIN = PairMapping()
YES_NO = {"yes": True, "no": False}
WHO, HOW_MANY = ("tokenizer", "text"), ("one", "several")
Tokens = tuple[int, ...]
_OUTSIDE = re.compile(r"\{{4}|\}{4}|\{\{(?!\{)|\}\}")  # four braces are two of the text
_WITHIN = re.compile(r"\{\{|\}\}")
ACCEPTED = "accepted: marks such as {{name|text}}, and {{{{ or }}}} for two braces of the text"
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\|(.+)", re.DOTALL)


def marked_text(text: str, where: str) -> MarkedText:
    """The text without its marks, and where they are; TaskError naming `where` and the character if one is wrong."""
    plain, spans, at = "", dict[str, tuple[int, int]](), 0
    while brace := _OUTSIDE.search(text, at):
        place = f"{where}, character {brace.start() + 1}"
        plain += text[at : brace.start()]
        if len(brace[0]) == 4:
            plain, at = plain + brace[0][:2], brace.end()
            continue
        if brace[0] == "}}":
            raise TaskError(f"{place}: '}}}}' without '{{{{'; {ACCEPTED}")
        end = _WITHIN.search(text, brace.end())
        if end is None:
            raise TaskError(f"{place}: '{{{{' is not closed; {ACCEPTED}")
        if end[0] == "{{":
            raise TaskError(f"{where}, character {end.start() + 1}: '{{{{' inside a mark; {ACCEPTED}")
        name, inside = _mark(text[brace.end() : end.start()], place)
        if name in spans:
            again = f"{where}, character {end.start() + 1}"
            raise TaskError(f"{again}: a second mark {name!r}; accepted: each name once in a text")
        spans[name] = len(plain), len(plain) + len(inside)
        plain, at = plain + inside, end.end()
    return MarkedText(plain + text[at:], spans)


def marked_pair(base: str, source: str, answer: str, where: str) -> MarkedPair:
    """The pair written so; TaskError naming `where` if a mark is wrong or only one of the two texts has it."""
    return pair_between(marked_text(base, f"{where}: base"), marked_text(source, f"{where}: source"), answer, where)


def pair_between(first: MarkedText, second: MarkedText, answer: str | int, where: str) -> MarkedPair:
    """The pair of a base and a source; TaskError naming `where` if they do not name the same positions."""
    for name in [*first.spans, *second.spans]:
        there = [side for side, text in (("base", first), ("source", second)) if name in text.spans]
        if len(there) == 1:
            raise TaskError(
                f"{where}: position {name!r} is marked only in the {there[0]}; accepted: in both, or in neither"
            )
    if not first.text.strip() or not second.text.strip() or not str(answer).strip():
        raise TaskError(f"{where}: base, source or answer is empty; accepted: some text in each")
    return MarkedPair(first, second, answer)


def pair_of(entry: Entry, find: Sequence[tuple[str, str]] = ()) -> MarkedPair:
    """The pair with these texts under base, source and answer, and under foil and also_right a text, or several, or
    none; with what it says of spaces and tokens, and the positions that `find` has expressions for.

    TaskError naming where it is, and the column, if one of them is wrong.
    """
    values, where = entry.values, entry.where
    for key in KEYS:
        _check_whole(values[key], f"{where}: {entry.name(key)}")
    base, source = (marked_text(values[key], f"{where}: {entry.name(key)}") for key in ("base", "source"))
    pair = pair_between(base, source, values["answer"], where)
    kind = type(values["answer"])
    also_right, foils = (
        _several(values.get(key, ()), kind, f"{where}: {entry.name(key)}") for key in (ALSO_RIGHT, FOIL)
    )
    said, about = tokens_as(values, where), {"columns": entry.columns, "metadata": entry.more, "group": entry.group}
    return with_found(replace(pair, also_right=also_right, foils=foils, **said, **about), find, where)


def tokens_as(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What it says under space, special_tokens and answer_tokens, as a pair's fields; TaskError naming `where` if one
    is wrong.
    """
    found: dict[str, Any] = {}
    for key, accepts in ((SPACE, YES_NO), (SPECIAL, WHO), (ANSWER_TOKENS, HOW_MANY)):
        if key in entry:
            if entry[key] not in [*accepts]:
                raise TaskError(f"{where}: {key}: found {entry[key]!a:.60}; accepted: {' or '.join(accepts)}")
            found[key] = YES_NO.get(entry[key], entry[key])
    return found


def _several(found: Any, kind: type, where: str) -> tuple[str | int, ...]:
    """One or several of a kind, which is texts, or ids of tokens."""
    several = (found,) if isinstance(found, str) else found
    if not isinstance(several, (list, tuple)) or not all(type(one) is kind and str(one).strip() for one in several):
        raise TaskError(f"{where}: found {ascii(found)[:60]}; accepted: a text, or a list of texts, none empty")
    for one in several:
        _check_whole(one, where)
    return tuple(several)


def _check_whole(text: str | int, where: str) -> None:
    if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
        raise TaskError(f"{where}: half of a character, such as \\ud83d alone; accepted: whole characters")


def read_pairs(path: Path, defaults: Mapping[str, str] | None = None, mapping: PairMapping = PLAIN) -> list[MarkedPair]:
    """The pairs in a file; ManifestError if it cannot be read, TaskError naming each row that is wrong.

    defaults: space, special_tokens and answer_tokens, for rows without them.
    """
    pairs = pairs_in(read_file(path), defaults, mapping)
    check_alike([pair for _, pair in pairs], [where for where, _ in pairs])
    return [pair for _, pair in pairs]


def pairs_in(
    data: Data, defaults: Mapping[str, str] | None = None, mapping: PairMapping = PLAIN
) -> list[tuple[str, MarkedPair]]:
    """The pairs in a file's rows, each with where it is, such as name:1; TaskError with a line for each that is wrong.

    defaults: space, special_tokens and answer_tokens, for rows without them.
    """
    entries = entries_of(rows_of(data, mapping.rows), mapping)
    for entry in entries:
        entry.values.update({**(defaults or {}), **entry.values})
    return each_of(entries, lambda entry: (entry.where, pair_of(entry, mapping.find)))


def check_alike(pairs: Sequence[MarkedPair], names: Sequence[str]) -> None:
    """Raise TaskError naming a pair whose positions are not those of the first one."""
    for pair, name in zip(pairs, names, strict=True):
        if set(pair.base.spans) != set(pairs[0].base.spans):
            odd = sorted(set(pair.base.spans) ^ set(pairs[0].base.spans))[0]
            there, other = (name, names[0]) if odd in pair.base.spans else (names[0], name)
            raise TaskError(
                f"{other}: no position {odd!r}, which {there} has; accepted: the same positions in all pairs"
            )


def encoded_pair(pair: MarkedPair, tokenizer: PreTrainedTokenizerBase, where: str) -> Example:
    """The pair's prompts and its answer's token; TaskError naming `where` if a word or a mark does not fit."""
    try:
        pair = as_turns(pair, tokenizer)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    key = "base"
    try:
        base = known_prompt(pair.base, tokenizer, pair.special_tokens)
        key = "source"
        source = known_prompt(pair.source, tokenizer, pair.special_tokens)
    except TaskError as error:
        raise TaskError(f"{where}: {pair.name(key)}: {error}") from None
    try:
        texts = {"answer": (pair.answer,), ALSO_RIGHT: pair.also_right, FOIL: pair.foils}
        answer, also_right, foils = (
            [answer_tokens(text, pair.name(key), pair, base, tokenizer) for text in some] for key, some in texts.items()
        )
        _check_apart(pair, answer[0], also_right, foils)
        return Example.scored_by(base, source, [*answer, *also_right], foils)
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None


def _mark(inside: str, place: str) -> tuple[str, str]:
    match = _INSIDE.fullmatch(inside)
    if match is None:
        tail = "a name of letters, digits and _; {{{{ or }}}} for two braces of the text"
        raise TaskError(f"{place}: found {{{{{inside}}}}}; accepted: {{{{name|text}}}}, {tail}")
    if match[1] == "last":
        raise TaskError(f"{place}: 'last' is always the prompt's last token; accepted: another name")
    return match[1], match[2]


def known_prompt(
    marked: MarkedText, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens = "tokenizer"
) -> Prompt:
    """The encoded text; TaskError if the tokenizer does not know a word of it."""
    made = encode(marked.text, tokenizer, special_tokens)
    for token, (start, end) in zip(made.ids, made.offsets, strict=True):
        word = marked.text[start:end]
        if start < end and is_unknown(token, word, tokenizer):
            raise TaskError(f"this tokenizer does not know {word!r}; accepted: words it knows")
    return encoded_prompt(marked, tokenizer, single=False, special_tokens=special_tokens)


def _check_apart(pair: MarkedPair, answer: Tokens, also_right: Sequence[Tokens], foils: Sequence[Tokens]) -> None:
    """Raise TaskError if a text is right and wrong, or there twice, or all that another one begins with."""
    before = {answer: "the answer"}
    for key, texts, some in ((ALSO_RIGHT, pair.also_right, also_right), (FOIL, pair.foils, foils)):
        for text, tokens in zip(texts, some, strict=True):
            if tokens in before:
                found = f"{pair.name(key)}: {text!r} is already {before[tokens]}"
                raise TaskError(f"{found}; accepted: each token once")
            for other, name in before.items():
                if tokens[: len(other)] == other or other[: len(tokens)] == tokens:
                    found = f"{pair.name(key)}: {text!r} begins with {name}, or the other way round"
                    raise TaskError(f"{found}; accepted: texts that do not begin with one another")
            before[tokens] = f"{key} {text!r}"
