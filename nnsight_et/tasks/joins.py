"""Whether a space stands between a prompt and its answer, from their texts alone; None where that is not certain.

No space is added where the texts have one at the join already; after ( [ { _ # $, an opening quotation mark, and
= / - + * < > that no space precedes; before the , . ; : ! ? ) ] } or 's that closes something; between characters of a
script without spaces, such as Chinese, Japanese or Thai, and beside their punctuation.

A space is certain after the commonest English words (the, is, to, ...); between a word in small letters and one with a
capital, but for code; before a capital or a digit where the prompt's last word stands before such elsewhere, and before
nothing else; after a mark such as : where the prompt always has one after it, or a plain word is before , ; : ! ?. What
the texts show of these two comes first: where they write the last word and the answer elsewhere, apart or as one word,
it is so here.

All else is uncertain: "sun" and "flower" look like "loves" and "pizza", "17" and "52" like a year or two numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise

BRACKETS = "([{_#$"
OPERATORS = "=/-+*<>"
QUOTES = "\"'"
CLOSING = ",.;:!?)]}%"
IN_PROSE = ",;:!?"  # after a word in plain letters a space follows them
CONTRACTION = re.compile(r"['’](s|t|d|m|re|ve|ll)\b", re.IGNORECASE)
CODE = re.compile(r"[{}=;\\]|\w[(\[_]|\b[a-z]+[A-Z]")  # what prose does not have
UNSPACED = (
    "CJK ",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
COMMON = frozenset(
    """the a an this that these those some any each every no my your his her its our their i you he she it we they me
    him us them who which what is are was were be been being am has have had do does did will would can could should may
    might must of to in on at by for from with into onto about as than like and or but not very""".split()  # noqa: SIM905
)


def space_before(answer: str, base: str, source: str, known: Callable[[str], bool] = lambda word: False) -> bool | None:
    """Whether a space goes between the base prompt and the answer; None where that is not certain.

    known: whether a tokenizer has the word it is called with as one token: then both may be one word.
    """
    last, first = base[-1], answer[0]
    if last.isspace() or first.isspace() or _opens(base) or _beside_wide(last, first):
        return False
    if _closes(answer):
        return None if re.search(rf"\s{re.escape(first)}", base) else False
    if not _in_word(first) or _unspaced(first) or _unspaced(last):
        return None
    return _after_word(answer, base, source, known) if _in_word(last) else _after_mark(base)


def _after_word(answer: str, base: str, source: str, known: Callable[[str], bool]) -> bool | None:
    start = len(base)
    while start and _in_word(base[start - 1]):
        start -= 1
    word = base[start:]
    apart, together = (_written(rf"{re.escape(word)}{gap}{re.escape(answer)}", base, source) for gap in (r"\s+", ""))
    if apart:
        return None if together else True
    likely = _stands_alone(base, word) and _is_whole(word, answer, base)
    if together:
        return None if likely else False
    return True if likely and (len(word) == 1 or not known(word + answer)) else None


def _is_whole(word: str, answer: str, base: str) -> bool:
    """Whether the prompt's last word is one that ends here, and not the beginning of a longer one."""
    kind = "[^\\W\\d_a-z]" if answer[0].isupper() else "\\d" if answer[0].isdigit() else None
    after = re.findall(rf"(?<!\w){re.escape(word)}(\s+\S|\S)", base)
    if kind and after and all(one[0].isspace() and re.fullmatch(kind, one[-1]) for one in after):
        return True
    if answer[0].isupper() and CODE.search(re.sub(r"<\S*>", "", base)):  # special tokens are no code
        return False
    return word.lower() in COMMON or (answer[0].isupper() and word.islower() and len(word) > 1)


def _after_mark(base: str) -> bool | None:
    mark = base[-1]
    if mark in QUOTES + OPERATORS or (mark not in CLOSING and unicodedata.category(mark) not in ("Pf", "Pe")):
        return None
    after = [two[1] for two in pairwise(base) if two[0] == mark]
    after = [one for one in after if one.isspace() or _in_word(one)]
    if after:
        return True if all(one.isspace() for one in after) else None
    return True if mark in IN_PROSE and re.search(r"(?<!\S)[^\W\d_]+\s?.$", base) else None


def _opens(base: str) -> bool:
    """Whether the prompt ends with something that goes on without a space."""
    last, before = base[-1], base[-2:-1]
    if last in QUOTES:
        return not before or before.isspace() or before in "([{=:,<" or unicodedata.category(before) in ("Ps", "Pi")
    if last in OPERATORS:
        stem = base.rstrip(OPERATORS)
        return bool(stem) and not stem[-1].isspace()
    return last in BRACKETS or last in "¿¡" or unicodedata.category(last) in ("Ps", "Pi")


def _closes(answer: str) -> bool:
    return answer[0] in CLOSING or CONTRACTION.match(answer) is not None or unicodedata.category(answer[0]) == "Pf"


def _beside_wide(last: str, first: str) -> bool:
    """Whether both characters are of scripts without spaces, or one is a punctuation mark of theirs."""
    wide = any(
        unicodedata.east_asian_width(one) in "WF" and unicodedata.category(one)[0] == "P" for one in last + first
    )
    return wide or (_unspaced(last) and _unspaced(first))


def _unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def _stands_alone(base: str, word: str) -> bool:
    """Whether the word is of letters alone, and an opening bracket or quotation mark at most is before it."""
    before = base.split()[-1].removesuffix(word)
    return word.isalpha() and len(before) < 2 and all(one in "([{\"'*" or one in "“‘«¿¡" for one in before)


def _written(pattern: str, base: str, source: str) -> bool:
    return any(re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) for text in (base, source))
