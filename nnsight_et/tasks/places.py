"""Positions that are not marked: found in both texts of a pair by an expression, or where the two differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from nnsight_et.core.errors import TaskError
from nnsight_et.rows.mapping import DIFFERING
from nnsight_et.tasks.encoding import MarkedPair, MarkedText

AT = "at"
"""The group of an expression that is the position, where it has one of this name; else its first, else all of it."""
WORDS = re.compile(r"\w+|[^\w\s]")

Span = tuple[int, int]


def with_found(pair: MarkedPair, find: Sequence[tuple[str, str]], where: str) -> MarkedPair:
    """The pair with the positions that `find` has expressions for; TaskError naming `where` and one that is not found.

    An expression must be found once in each text. DIFFERING: the words between those that both texts share.
    """
    base, source = dict(pair.base.spans), dict(pair.source.spans)
    for name, expression in find:
        if name in base:
            raise TaskError(
                f"{where}: position {name!r} is marked in the text and also in find; accepted: one of the two"
            )
        if expression == DIFFERING:
            base[name], source[name] = _differing(pair, f"{where}: {name}")
        else:
            base[name], source[name] = (
                _matching(expression, text, f"{where}: {pair.name(side)}: {name}")
                for side, text in (("base", pair.base.text), ("source", pair.source.text))
            )
    return replace(pair, base=MarkedText(pair.base.text, base), source=MarkedText(pair.source.text, source))


def _matching(expression: str, text: str, where: str) -> Span:
    """Where in the text the expression is."""
    found = list(re.finditer(expression, text))
    if len(found) != 1:
        shown, times = expression if expression.isprintable() else repr(expression)[1:-1], f"{len(found)} times"
        accept = "an expression that matches once, such as '.*(word)' for the last one"
        error = TaskError(f"{where}: '{shown}' is found {times} in {text!r:.120}; accepted: {accept}")
        error.alike = f"{where.rsplit(': ', 2)[1:]} {expression} {times}"
        raise error
    (match,) = found
    start, end = match.span(AT if AT in match.re.groupindex else min(match.re.groups, 1))
    if start == end:
        raise TaskError(f"{where}: {expression!r} matches an empty text; accepted: one that matches some text")
    return start, end


def _differing(pair: MarkedPair, where: str) -> tuple[Span, Span]:
    """The one place where base and source have other words."""
    words = [[match.span() for match in WORDS.finditer(text.text)] for text in (pair.base, pair.source)]
    texts = [
        [text.text[slice(*span)] for span in spans] for text, spans in zip((pair.base, pair.source), words, strict=True)
    ]
    parts = SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    others = [part for part in parts if part[0] != "equal"]
    if [part[0] for part in others] != ["replace"]:
        shown = ", ".join(
            f"{' '.join(texts[0][a:b])!r} and {' '.join(texts[1][c:d])!r}" for _, a, b, c, d in others[:3]
        )
        found = f"base and source differ in {len(others)} places" + (f" ({shown})" if others else "")
        raise TaskError(f"{where}: {found}; accepted: one place with words in both, or a mark, or an expression")
    ((_, a, b, c, d),) = others
    return (words[0][a][0], words[0][b - 1][1]), (words[1][c][0], words[1][d - 1][1])
