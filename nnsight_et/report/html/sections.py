"""The sections of a report, in the paper's order: each experiment with its figures, tables, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnsight_et.core.errors import ResultError, quantity
from nnsight_et.display.table import Table
from nnsight_et.methods import METHODS
from nnsight_et.methods.sections import SECTIONS
from nnsight_et.report.html.drawing import DrawnGroup, draw_group
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import method_of, models_of, name_of
from nnsight_et.results.store import Result, ResultHeader
from nnsight_et.results.study import Missing, Study

FOLDED_FROM = 25  # rows: a longer table is folded


@dataclass(frozen=True)
class ReportEntry:
    """An experiment on the page."""

    name: str
    anchor: str
    title: str
    facts: str
    plates: tuple[DrawnGroup, ...] = ()
    first: tuple[Table, ...] = ()
    """Tables above the figures; then those below, and those that are folded."""
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    made: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    lead: str
    entries: tuple[ReportEntry, ...] = ()
    tables: tuple[Table, ...] = ()
    listed: bool = False
    """Whether the contents name its entries."""


def method_sections(study: Study) -> tuple[tuple[Section, ...], tuple[Missing, ...]]:
    """A section for every kind of experiment there is; and the results that cannot be shown, with the reason."""
    sections, unshown = [], []
    for section in SECTIONS:
        entries = []
        for result in study.results:
            if method_of(result.header) in METHODS and METHODS[method_of(result.header)].section == section:
                try:
                    entries.append(_entry(result, study))
                except ResultError as error:
                    unshown.append(Missing(name_of(result.header), method_of(result.header), str(error)))
        if entries:
            sections.append(Section(section.anchor, section.title, section.lead, tuple(entries), listed=True))
    return tuple(sections), tuple(unshown)


def untitled_table(table: Table, name: str) -> Table:
    """The table without its experiment's name in the title, which the page has above it."""
    return replace(table, title=table.title.removeprefix(f"{name}: "))


def _entry(result: Result, study: Study) -> ReportEntry:
    header = result.header
    name, method = name_of(header), method_of(header)
    found = [untitled_table(table, name) for table in tables(header)]
    short = tuple(table for table in found if len(table.rows) < FOLDED_FROM)
    spec = json.dumps(header.job.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
    return ReportEntry(
        name=name,
        anchor=f"x-{name}",
        title=_title(header),
        facts=_facts(header),
        plates=tuple(draw_group(plate) for plate in plates(result, study)),
        first=short if METHODS[method].section.tables_first else (),
        tables=() if METHODS[method].section.tables_first else short,
        folded=tuple(table for table in found if len(table.rows) >= FOLDED_FROM),
        made=spec,
    )


def _title(header: ResultHeader) -> str:
    reproduces = header.job.spec.reproduces
    return name_of(header) + (f" · {', '.join(reproduces)}" if reproduces else "")


def _facts(header: ResultHeader) -> str:
    """The experiment in a line: its method, its models, what it was made from, how long it took."""
    facts = [method_of(header).replace("_", " "), models_of(header)]
    if header.job.needs:
        facts.append(f"from {', '.join(header.job.needs)}")
    if (examples := getattr(header.job.spec, "examples", None)) is not None:
        facts.append(quantity(examples, "example"))
    facts.append(f"{header.seconds:.0f} s on {header.device}")
    return " · ".join(fact for fact in facts if fact)


def numeric_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, note: str = "") -> Table:
    """A table of text, its columns set to the left."""
    return Table(title, tuple(columns), tuple(map(tuple, rows)), frozenset(), note)
