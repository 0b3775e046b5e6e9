"""The sections of a report, in the paper's order: each experiment with its figures, tables, and how it was made.

Then those on how far results go: the paper beside them, self-checks, provenance, and what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnsight_et.core.errors import ResultError, quantity
from nnsight_et.display.table import Table
from nnsight_et.methods import METHODS
from nnsight_et.methods.sections import SECTIONS
from nnsight_et.report.html.drawing import DrawnGroup, draw_group
from nnsight_et.report.reproduction import paper_tables
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import CheckRecord, method_of, models_of, name_of
from nnsight_et.results.store import Result, ResultHeader
from nnsight_et.results.study import Missing, Study
from nnsight_et.results.summary import tokens_in

FOLDED_FROM = 25  # rows: a longer table is folded
LONG = 20  # experiments: of a study with more, each but the first of a section is folded


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
    folded_up: bool = False
    """Whether only its heading is seen until it is opened."""


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
        if len(study.results) > LONG:
            entries = [replace(entry, folded_up=index > 0) for index, entry in enumerate(entries)]
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
    spec = header.job.spec
    return (spec.title or name_of(header)) + (f" · {', '.join(spec.reproduces)}" if spec.reproduces else "")


def _facts(header: ResultHeader) -> str:
    """The experiment in a line: its name where a title stands for it, its method, models, sources, and time."""
    named = [name_of(header)] if header.job.spec.title else []
    facts = [*named, method_of(header).replace("_", " "), models_of(header)]
    if header.job.needs:
        facts.append(f"from {', '.join(header.job.needs)}")
    if (examples := getattr(header.job.spec, "examples", None)) is not None:
        facts.append(quantity(examples, "example"))
    facts.append(f"{header.seconds:.0f} s on {header.device}")
    return " · ".join(fact for fact in facts if fact)


def numeric_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, note: str = "") -> Table:
    """A table of text, its columns set to the left."""
    return Table(title, tuple(columns), tuple(map(tuple, rows)), frozenset(), note)


def paper(study: Study) -> tuple[Section, ...]:
    """Paper, ours, difference for every table and figure that an experiment reproduces; no section without one."""
    entries = []
    for header in _headers(study):
        name = name_of(header)
        found = [untitled_table(table, name) for table in paper_tables(header)]
        if found:
            short = tuple(table for table in found if len(table.rows) < FOLDED_FROM)
            long = tuple(table for table in found if len(table.rows) >= FOLDED_FROM)
            facts = " · ".join(filter(None, (method_of(header).replace("_", " "), models_of(header))))
            entries.append(ReportEntry(name, f"paper-{name}", name, facts, tables=short, folded=long))
    lead = "The published number, ours, and the difference."
    return (Section("paper", "Paper, ours, difference", lead, tuple(entries)),) if entries else ()


def self_check(study: Study) -> Section:
    """Every check that ran inside an experiment: what was found and what was accepted."""
    rows, bare = [], []
    for header in _headers(study):
        found = checks_of(header)
        rows += [_check(name_of(header), check) for check in found]
        if not found:
            bare.append(name_of(header))
    columns = ("experiment", "check", "of", "largest difference", "accepted", "")
    table = numeric_table(columns, rows, "Checks")
    lead = f"{sum(row[-1] == PASSED for row in rows)} of {quantity(len(rows), 'check')} passed."
    if bare:
        lead += f" Without a check: {', '.join(bare)}."
    folded = (
        ReportEntry(
            "checks", "checks", "Every check", "Each was recomputed another way, or known in advance.", folded=(table,)
        ),
    )
    return Section("self-check", "Self-check", lead, folded if rows else ())


NOTHING = "Nothing: every experiment of the manifest is shown above."
UNPLANNED = (
    "Nothing that these results need. The report was made from a folder, so the manifest may list more experiments."
)
PASSED, FAILED = "passed", "failed"


def checks_of(header: ResultHeader) -> Sequence[CheckRecord]:
    """The checks recorded with a result; none where they were off or there was nothing to check."""
    return header.self_check.checks


def provenance(study: Study) -> Section:
    """The models' fingerprints, the versions, and how and where each experiment was computed."""
    headers = _headers(study)
    models = dict.fromkeys((one.name, one.fingerprint, one.description) for header in headers for one in header.models)
    versions = dict.fromkeys(pair for header in headers for pair in header.versions.items())
    rows = []
    for header in headers:
        job = header.job
        settings = (str(job.seed), job.engine, job.dtype, job.attention)
        identity = (header.job_id, header.identity, header.data_digest)
        rows.append((name_of(header), method_of(header), *settings, header.device, f"{header.seconds:.1f}", *identity))
    columns = (
        "experiment",
        "method",
        "seed",
        "engine",
        "dtype",
        "attention",
        "device",
        "seconds",
        "job",
        "identity",
        "data",
    )
    tables = (
        numeric_table(("model", "fingerprint of its files", "from"), list(models), "Models"),
        numeric_table(("package", "version"), list(versions), "Versions"),
    )
    note = "Digests. job: of the request; identity: of the request and the model files; data: of the encoded examples."
    every = [
        ReportEntry(
            "runs", "runs", "Every experiment", "", folded=(numeric_table(columns, rows, "How and where", note),)
        )
    ]
    if scored := list(dict.fromkeys(row for header in headers for row in _tokens(header))):
        columns = ("model", "as", "text", "token", "id")
        lead = "Each is the next token after a base prompt. Quotes show whether a space is part of it."
        every.append(
            ReportEntry(
                "tokens", "tokens", "Tokens that are scored", lead, folded=(numeric_table(columns, scored, "Tokens"),)
            )
        )
    lead = "What the numbers were computed from. Nothing here depends on when the report was made."
    return Section("provenance", "Provenance", lead, tuple(every), tables)


def missing(study: Study, unshown: Sequence[Missing]) -> Section:
    """The experiments without a result, or whose result cannot be shown, and why."""
    rows = [(one.experiment, one.method, one.why) for one in (*study.missing, *unshown)]
    if not rows:
        return Section("missing", "What is missing", NOTHING if study.planned else UNPLANNED)
    table = numeric_table(("experiment", "method", "why"), rows, "Experiments")
    lead = "Experiments of the manifest without a result. `et run` continues where it stopped."
    return Section("missing", "What is missing", lead, tables=(table,))


def _tokens(header: ResultHeader) -> Iterator[tuple[str, ...]]:
    """The tokens that a result was scored by: model, what they are, text, name in the vocabulary, and id."""
    for model, said in tokens_in(header).items():
        for role in ("answer", "also right", "foil"):
            for one in said.get(role, ()):
                yield model, role, one.text, one.token, str(one.id)


def _headers(study: Study) -> list[ResultHeader]:
    return [result.header for result in study.results]


def _check(experiment: str, check: CheckRecord) -> tuple[str, ...]:
    about = check.model_dump(exclude={"check", "worst", "tolerance"}, exclude_none=True)
    of = ", ".join(f"{key} {value}" for key, value in about.items())
    numbers = (f"{check.worst:.2g}", f"{check.tolerance:.2g}")
    return (experiment, check.check, of, *numbers, PASSED if check.passed else FAILED)
