"""Own pairs of prompts, with named positions marked in the text: "The {{object|apple}} is in Box {{label|B}}."

{{name|text}} names a position; the prompt reads as if only `text` stood there. The position is the last token of the
marked text, which must be whole tokens, a space before them allowed. `last`, the prompt's last token, is always there.
Base and source name the same positions. The answer is the one token that follows the base prompt: a space goes between
them, unless the answer starts with one or the prompt ends with one or with any of = ( [ { / - + * < > _ # $ " '.
In a file: one JSON object per line, {"base": "...", "source": "...", "answer": "..."}. Two more keys are allowed, each
with a text or a list of texts, one token each as the answer is: "foil", what is wrong, for metrics that compare, and
"also_right", what is right as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsight_et.batch import Example, Prompt
from nnsight_et.errors import ManifestError, TaskError
from nnsight_et.tasks.encoding import MarkedPair, MarkedText, encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEYS = ("base", "source", "answer")
FOIL, ALSO_RIGHT = "foil", "also_right"  # the keys that a pair need not have
JOINED_AFTER = frozenset("=([{/-+*<>_#$\"'")
_MARK = re.compile(r"\{\{|\}\}")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\|(.+)", re.DOTALL)


def marked_text(text: str, where: str) -> MarkedText:
    """The text without its marks, and where they are; TaskError naming `where` and the character if one is wrong."""
    plain, spans, at, opened = "", {}, 0, None
    for brace in _MARK.finditer(text):
        place = f"{where}, character {brace.start() + 1}"
        if (brace[0] == "{{") == (opened is not None):
            found = "'{{' inside of a mark" if opened is not None else "'}}' without '{{'"
            raise TaskError(f"{place}: {found}; accepted: marks such as {{{{name|text}}}}")
        if opened is None:
            plain, opened = plain + text[at : brace.start()], brace.end()
        else:
            name, inside = _mark(text[opened : brace.start()], f"{where}, character {opened - 1}")
            if name in spans:
                raise TaskError(f"{place}: a second mark {name!r}; accepted: each name once in a text")
            spans[name], opened = (len(plain), len(plain) + len(inside)), None
            plain += inside
        at = brace.end()
    if opened is not None:
        raise TaskError(f"{where}, character {opened - 1}: '{{{{' is not closed; accepted: {{{{name|text}}}}")
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
    none.

    TaskError naming `where` if one of them is wrong.
    """
    for key in KEYS:
        _check_whole(entry[key], key, where)
    pair = marked_pair(entry["base"], entry["source"], entry["answer"], where)
    also_right, foils = (_texts(entry.get(key, ()), key, where) for key in (ALSO_RIGHT, FOIL))
    return replace(pair, also_right=also_right, foils=foils)


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


def read_pairs(path: Path) -> list[MarkedPair]:
    """The pairs in a file of JSON lines; ManifestError if it cannot be read, TaskError naming a line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); accepted: a file of JSON lines in UTF-8") from None
    pairs = pairs_in(text, path.name)
    check_alike([pair for _, pair in pairs], [where for where, _ in pairs])
    return [pair for _, pair in pairs]


def pairs_in(text: str, name: str) -> list[tuple[str, MarkedPair]]:
    """The pairs in the text of a file called `name`, each with its line, name:1; TaskError naming one that is wrong."""
    lines = ((f"{name}:{number}", line) for number, line in enumerate(text.split("\n"), start=1))
    pairs = [(where, _pair_in(line, where)) for where, line in lines if line.strip()]
    if not pairs:
        raise TaskError(f"{name}: no pairs; accepted: lines such as {_form()}")
    return pairs


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
        base, source = (known_prompt(text, tokenizer) for text in (pair.base, pair.source))
        answer = _following(pair.answer, "answer", pair, base, tokenizer)
        also_right = [_following(text, ALSO_RIGHT, pair, base, tokenizer) for text in pair.also_right]
        foils = [_following(text, FOIL, pair, base, tokenizer) for text in pair.foils]
        _check_apart(pair, answer, also_right, foils)
        return Example(base, source, answer, tuple(also_right), tuple(foils))
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None


def followed(text: str, answer: str) -> str:
    """The prompt with its answer behind it."""
    apart = answer[0].isspace() or text[-1].isspace() or text[-1] in JOINED_AFTER
    return text + ("" if apart else " ") + answer


def _mark(inside: str, place: str) -> tuple[str, str]:
    match = _INSIDE.fullmatch(inside)
    if match is None:
        raise TaskError(
            f"{place}: found {{{{{inside}}}}}; accepted: {{{{name|text}}}}, a name of letters, digits and _"
        )
    if match[1] == "last":
        raise TaskError(f"{place}: 'last' is always the prompt's last token; accepted: another name")
    return match[1], match[2]


def _pair_in(line: str, where: str) -> MarkedPair:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        raise TaskError(f"{where}: not JSON ({error}); accepted: {_form()}") from None
    if not isinstance(entry, dict) or not are_keys(entry) or not all(isinstance(entry[key], str) for key in KEYS):
        found = f"the keys {', '.join(map(repr, entry))}" if isinstance(entry, dict) else "no object"
        tail = f"as in {_form()}; with it, if wanted, {FOIL} and {ALSO_RIGHT}"
        raise TaskError(f"{where}: {found}; accepted: texts under {', '.join(KEYS)}, {tail}")
    return pair_of(entry, where)


def are_keys(keys: Iterable[object]) -> bool:
    """Whether a pair can have just these keys."""
    return set(KEYS) <= set(keys) <= {*KEYS, FOIL, ALSO_RIGHT}


def _form() -> str:
    return '{"base": "...", "source": "...", "answer": "..."}'


def known_prompt(marked: MarkedText, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """The encoded text; TaskError if the tokenizer does not know a word of it."""
    encoding = tokenizer(marked.text, return_offsets_mapping=True)
    for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if token == tokenizer.unk_token_id and start < end:
            raise TaskError(f"this tokenizer does not know {marked.text[start:end]!r}; accepted: words it knows")
    return encoded(marked, tokenizer, single=False)


def _following(text: str, key: str, pair: MarkedPair, base: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that follows the base prompt; TaskError naming `key` unless the text is one."""
    whole = tokenizer(followed(pair.base.text, text))["input_ids"]
    if tuple(whole[: len(base.tokens)]) != base.tokens:
        found = f"the prompt's own tokens change when {text!r} follows"
        raise TaskError(f"{key}: {found}; accepted: a prompt that does not end within a token")
    tokens = whole[len(base.tokens) :]
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        found = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(tokens)))
        raise TaskError(f"{key}: {text!r} is not one token (found {found or 'none'}); accepted: a single token")
    return tokens[0]


def _check_apart(pair: MarkedPair, answer: int, also_right: Sequence[int], foils: Sequence[int]) -> None:
    """Raise TaskError if a token is right and wrong, or there twice."""
    before = {answer: "the answer"}
    for key, texts, tokens in ((ALSO_RIGHT, pair.also_right, also_right), (FOIL, pair.foils, foils)):
        for text, token in zip(texts, tokens, strict=True):
            if token in before:
                raise TaskError(f"{key}: {text!r} is {before[token]} too; accepted: tokens that are there once")
            before[token] = f"{key} {text!r}"
