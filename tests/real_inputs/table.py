"""docs/real_inputs.md: the cases as tables, an area each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from . import adapters, data_files, folders, memory, mistakes, numeric, prompts, texts, tokenizer_files, weights
from .case import CASES, Case
from .measure import Answer, Row

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "real_inputs.md"
AREAS = tuple(
    module.AREA
    for module in (adapters, memory, weights, folders, tokenizer_files, texts, prompts, numeric, data_files, mistakes)
)
WIDTH = 180


def document(text: str, rows: Sequence[Row]) -> str:
    """The document with its tables made anew; what is written by hand above them stays."""
    head = text.partition("<!-- tables -->\n")[0]
    return f"{head}<!-- tables -->\n{tables(rows)}<!-- /tables -->\n"


def tables(rows: Sequence[Row]) -> str:
    """A heading and a table for each area."""
    parts = [f"{len(rows)} cases.\n"]
    for area in AREAS:
        mine = [row for row in rows if row.case.area == area]
        if not mine:
            continue
        both = any(row.run.verdict != "not for it" for row in mine)
        parts.append(f"## {area[0].upper()}{area[1:]}\n\n{table(mine, both)}\n")
    return "\n".join(parts)


def table(rows: Sequence[Row], both: bool) -> str:
    """The rows of an area; without the column of `et run` where it is for Python alone."""
    columns = ("case", "right", *(("`et run`", "in Python") if both else ("in Python",)))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [named(row.case), row.plain, *([shown(row.run)] if both else []), shown(row.python)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def named(case: Case) -> str:
    """The case's name as a cell."""
    return escaped(case.name)


def shown(answer: Answer) -> str:
    """A verdict and its message as a cell."""
    if not answer.said:
        return answer.verdict
    said = re.sub(r"\s+", " ", answer.said)
    said = said if len(said) <= WIDTH else f"{said[: WIDTH - 3]}..."
    return f"{answer.verdict}: {escaped(said)}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([|<>*_`{}\\\[\]])", r"\\\1", text)


def chosen(parts: Sequence[str]) -> list[Case]:
    """The cases whose area or name has one of the parts; all without any."""
    cases = sorted(CASES, key=lambda one: AREAS.index(one.area))
    return [one for one in cases if not parts or any(part in f"{one.area}: {one.name}" for part in parts)]
