"""Whether a space stands between a prompt and its answer, from their texts alone; None where that is not certain.

No space is added where the texts have one at the join already; after ( or [ and after an opening quotation mark; before
an answer that is only a comma, a full stop, or the ) or ] that the prompt has open; before the 's of a name; between
characters of a script without spaces, such as Chinese, Japanese or Thai, and beside their punctuation. Where the texts
have a space at such a place elsewhere, it is not certain.

A space is certain after a few English words that stand in a sentence and begin no longer word: the, of, is, contains.
After more of them, such as in, only before a capital or a digit: "in" and "fair" look like a prefix and its word.

Base or source may have the prompt's last two words and the answer elsewhere: then it is here as there. So it is after
a label such as A: that other lines begin with.

All else is uncertain: "sun" and "flower" look like "loves" and "pizza", "3." and "52" like two sentences or a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

QUOTES = "\"'“‘„"
CONTRACTION = re.compile(r"['’](s|t|d|m|re|ve|ll)", re.IGNORECASE)
SENTENCE = re.compile(r"(?:(\S)[^\S\n]+)?(?<!\S)([^\W\d_]+)\Z")  # the last word, and what is before it in its line
CODE = re.compile(
    r"[{}=\\]|\w[(\[_]|\b[a-z]+[A-Z]|\b(attribute|class|field|function|identifier|method|property|variable)\b"
)
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
WHOLE = frozenset(
    "the these those their your our of to from into is and contains".split()  # noqa: SIM905
)
PREFIXES = frozenset(
    """in on at by for with an as or not no so up out off over under about through be been am do does did have can could
    will would shall should may might must some any every my his her its which whose are was were has had this that
    than""".split()  # noqa: SIM905
)
"""Words that begin longer ones, or prefixes too."""


def space_before(answer: str, base: str, source: str, known: Callable[[str], bool] = lambda word: False) -> bool | None:
    """Whether a space goes between the base prompt and the answer; None where that is not certain.

    known: whether a tokenizer has the word it is called with as one token: then both may be one word.
    """
    last, first = base[-1], answer[0]
    if last.isspace() or first.isspace():
        return False
    if (written := _texts_have_space(answer, base, source)) is not None:
        return written
    if _touches_wide(last, first) or _opens(base) or _closes(answer, base):
        return None if _is_spaced_in_texts(last, first, base + "\n" + source) else False
    return True if _after_word(answer, base, known) else None


def _texts_have_space(answer: str, base: str, source: str) -> bool | None:
    """Whether the texts have a space between what the prompt ends with and the answer; None if they do not say it.

    It ends with two words of a line, or with a line of one. A line that is a label alone, such as `A:`, may have any
    answer behind it elsewhere.
    """
    end = re.search(r"(?:\S+[^\S\n]+|^)\S+\Z", base, re.MULTILINE)
    if end is None:
        return None
    label, start = re.fullmatch(r"[^\W\d_]+:", end[0]), r"(?<!\S)" if len(end[0].split()) > 1 else "^"
    behind = r"\S" if label else re.escape(answer) + (r"(?!\w)" if _in_word(answer[-1]) else "")
    apart, together = (
        any(re.search(start + re.escape(end[0]) + gap + behind, text, re.MULTILINE) for text in (base, source))
        for gap in (" ", "")
    )
    return apart if apart != together else None


def _after_word(answer: str, base: str, known: Callable[[str], bool]) -> bool:
    """Whether the prompt ends with a whole word of a sentence, and the answer is another one."""
    end = SENTENCE.search(base)
    if end is None or not answer[0].isalnum() or _is_unspaced(answer[0]):
        return False
    before, word = end[1], end[2]
    first = word.istitle() and (before is None or before in ".!?")
    later = word.islower() and before is not None and (before.isalnum() or before in ",)\"'”’")
    if not (first or later):
        return False
    if answer[0].isupper() or answer[0].isdigit():
        certain = word.lower() in WHOLE | PREFIXES and not CODE.search(re.sub(r"<\S*>", "", base))  # not special tokens
    else:
        certain = word.lower() in WHOLE and len(answer) > 2  # the + me is one word, too
    return certain and not known(word + answer)


def _opens(base: str) -> bool:
    """Whether the prompt ends with an opening bracket or quotation mark."""
    last, before = base[-1], base[-2:-1]
    if last in "([":
        return not before or before.isspace() or before.isalnum() or before in "_(["
    opening = not before or before.isspace() or before in "(["
    return last in "¿¡" or (last in QUOTES and opening and (last not in "\"'" or base.count(last) % 2 == 1))


def _closes(answer: str, base: str) -> bool:
    """Whether the answer is a mark that follows a word, or the 's of one, and the word is none that goes on."""
    word = SENTENCE.search(base)
    if not (_in_word(base[-1]) or base[-1] in ")]") or (word and word[2].lower() in WHOLE | PREFIXES):
        return False
    opened = {")": "(", "]": "["}.get(answer)
    if opened:
        return base.count(opened) > base.count(answer)
    return answer in (".", ",") or CONTRACTION.fullmatch(answer) is not None


def _is_spaced_in_texts(last: str, first: str, texts: str) -> bool:
    """Whether the texts have a space where such characters meet, which is no place for one."""
    if _is_unspaced(last) and _is_unspaced(first):
        return any(
            _is_unspaced(one[1]) and _is_unspaced(one[2]) for one in re.finditer(r"(\S)[ \u3000](?=(\S))", texts)
        )
    mark, space = re.escape(first), r"[^\S\n]"
    if last in QUOTES:  # one that closes has a space behind it
        return re.search(rf"(?<![^\s(\[]){last}{space}", texts) is not None
    if first in ",.)]'’" or unicodedata.category(last)[0] != "P":
        return first not in "'’" and re.search(rf"\s{mark}|[(\[]{space}", texts) is not None
    return re.search(rf"{re.escape(last)}{space}", texts) is not None


def _touches_wide(last: str, first: str) -> bool:
    """Whether both characters are of scripts without spaces, or one is a punctuation mark of theirs."""
    wide = any(
        unicodedata.east_asian_width(one) in "WF" and unicodedata.category(one)[0] == "P" for one in last + first
    )
    return wide or (_is_unspaced(last) and _is_unspaced(first))


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(UNSPACED)


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"
