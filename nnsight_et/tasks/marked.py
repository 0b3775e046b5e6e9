"""Own pairs of prompts, with named positions marked in the text: "The {{object|apple}} is in Box {{label|B}}."

{{name|text}} names a position; the prompt reads as if only `text` stood there. The position is the last token of the
marked text, which must be whole tokens, a space before them allowed. `last`, the prompt's last token, is always there.
Base and source name the same positions. {{{{ and }}}} are two braces of the text.

The answer is the one token that follows the base prompt, or, with "answer_tokens": "several", the tokens that do; so is
each text beside it. " apple" with its space and "apple" without are two tokens. A
text that begins with its space is taken so. Otherwise `space` decides: "yes" puts a space between prompt and answer,
"no" puts none. Without it the texts decide, by the rules of `joins`, and what is not certain is asked for.

In a file: one JSON object per line, {"base": "...", "source": "...", "answer": "..."}. More keys are allowed: "foil",
what is wrong, for metrics that compare, and "also_right", what is right as well, each a text or a list of texts, one
token each as the answer is; "space", yes or no; "special_tokens", tokenizer or text: with "text" the tokenizer puts no
special tokens in front, for texts that bring their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from nnsight_et.core.batch import Example, Prompt
from nnsight_et.core.errors import ManifestError, TaskError
from nnsight_et.tasks.answers import answer_tokens
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, SpecialTokens, encode, encoded_prompt, is_unknown
from nnsight_et.tasks.turns import as_turns

KEYS = ("base", "source", "answer")
FOIL, ALSO_RIGHT = "foil", "also_right"  # the keys that a pair need not have
SPACE, SPECIAL, ANSWER_TOKENS = "space", "special_tokens", "answer_tokens"
MORE = (FOIL, ALSO_RIGHT, SPACE, SPECIAL, ANSWER_TOKENS)
FORM = '{"base": "...", "source": "...", "answer": "..."}'
LINES = f"one JSON object a line, texts under {', '.join(KEYS)}, as in {FORM}; with them, if wanted, {', '.join(MORE)}"
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
            raise TaskError(f"{where}, character {end.start() + 1}: '{{{{' inside of a mark; {ACCEPTED}")
        name, inside = _mark(text[brace.end() : end.start()], place)
        if name in spans:
            again = f"{where}, character {end.start() + 1}"
            raise TaskError(f"{again}: a second mark {name!r}; accepted: each name once in a text")
        spans[name] = len(plain), len(plain) + len(inside)
        plain, at = plain + inside, end.end()
    return MarkedText(plain + text[at:], spans)


def marked_pair(base: str, source: str, answer: str, where: str) -> MarkedPair:
    """The pair written so; TaskError naming `where` if a mark is wrong or only one of the two texts has it."""
    first, second = marked_text(base, f"{where}: base"), marked_text(source, f"{where}: source")
    for name in [*first.spans, *second.spans]:
        there = [side for side, text in (("base", first), ("source", second)) if name in text.spans]
        if len(there) == 1:
            raise TaskError(
                f"{where}: position {name!r} is marked in the {there[0]} only; accepted: in both, or neither"
            )
    if not first.text.strip() or not second.text.strip() or not answer.strip():
        raise TaskError(f"{where}: base, source or answer is empty; accepted: some text in each")
    return MarkedPair(first, second, answer)


def pair_of(entry: Mapping[str, Any], where: str) -> MarkedPair:
    """The pair with these texts under base, source and answer, and under foil and also_right a text, or several, or
    none; with what it says under space, special_tokens and
    answer_tokens.

    TaskError naming `where` if one of them is wrong.
    """
    for key in KEYS:
        _check_whole(entry[key], key, where)
    pair = marked_pair(entry["base"], entry["source"], entry["answer"], where)
    also_right, foils = (_texts(entry.get(key, ()), key, where) for key in (ALSO_RIGHT, FOIL))
    return replace(pair, also_right=also_right, foils=foils, **tokens_as(entry, where))


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


def _texts(found: Any, key: str, where: str) -> tuple[str, ...]:
    texts = (found,) if isinstance(found, str) else found
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TaskError(f"{where}: {key}: found {ascii(found)[:60]}; accepted: a text, or a list of texts, none empty")
    for text in texts:
        _check_whole(text, key, where)
    return tuple(texts)


def _check_whole(text: str, key: str, where: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise TaskError(f"{where}: {key}: half of a character, such as \\ud83d by itself; accepted: whole ones")


def read_pairs(path: Path, defaults: Mapping[str, str] | None = None) -> list[MarkedPair]:
    """The pairs in a file of JSON lines; ManifestError if it cannot be read, TaskError naming a line that is wrong.

    defaults: space, special_tokens and answer_tokens, for lines without them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); accepted: a file of JSON lines in UTF-8") from None
    pairs = pairs_in(text, path.name, defaults)
    check_alike([pair for _, pair in pairs], [where for where, _ in pairs])
    return [pair for _, pair in pairs]


def pairs_in(text: str, name: str, defaults: Mapping[str, str] | None = None) -> list[tuple[str, MarkedPair]]:
    """The pairs in the text of a file called `name`, each with its line, name:1; TaskError naming one that is wrong."""
    lines = [(f"{name}:{number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise TaskError(f"{name}: no pairs; accepted: lines such as {FORM}")
    pairs = []
    for where, line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
            found = _other_form(text, lines[0][1]) if not pairs else ""
            raise TaskError(f"{where}: {found or f'not JSON ({error})'}; accepted: {LINES}") from None
        pairs.append((where, _pair_in(entry, where, defaults or {})))
    return pairs


def _other_form(text: str, first: str) -> str:
    """What a file is that does not have a JSON object in its first line; "" if that cannot be said."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        columns = [column.strip() for column in re.split(r"[,\t;]", first)]
        named = len(columns) > 1 and all(re.fullmatch(r"\"?[A-Za-z_][\w-]*\"?", column) for column in columns)
        return f"a table with the columns {', '.join(columns)}, not JSON" if named else ""
    return f"one JSON document over several lines, {_content(whole)}"


def _content(whole: object) -> str:
    if isinstance(whole, dict):
        return f"an object with the keys {', '.join(map(ascii, whole))}"
    return "no object" + (f" but a list of {len(whole)}" if isinstance(whole, list) else "")


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
        base, source = (known_prompt(text, tokenizer, pair.special_tokens) for text in (pair.base, pair.source))
        texts = {"answer": (pair.answer,), ALSO_RIGHT: pair.also_right, FOIL: pair.foils}
        answer, also_right, foils = (
            [answer_tokens(text, key, pair, base, tokenizer) for text in some] for key, some in texts.items()
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


def _pair_in(entry: object, where: str, defaults: Mapping[str, str]) -> MarkedPair:
    if not isinstance(entry, dict) or not are_keys(entry) or not all(isinstance(entry[key], str) for key in KEYS):
        found = f"the keys {', '.join(map(repr, entry))}" if isinstance(entry, dict) else _content(entry)
        raise TaskError(f"{where}: {found}; accepted: {LINES}")
    return pair_of({**defaults, **entry}, where)


def are_keys(keys: Iterable[object]) -> bool:
    """Whether a pair can have just these keys."""
    return set(KEYS) <= set(keys) <= {*KEYS, *MORE}


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
                raise TaskError(f"{key}: {text!r} is {before[tokens]} too; accepted: tokens that are there once")
            for other, name in before.items():
                if tokens[: len(other)] == other or other[: len(tokens)] == tokens:
                    found = f"{text!r} goes on where {name} ends, or the other way round"
                    raise TaskError(f"{key}: {found}; accepted: texts none of which is the beginning of another")
            before[tokens] = f"{key} {text!r}"
