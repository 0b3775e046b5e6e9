"""The page: what a reader sees first, then the sections. One file; its policy forbids any other source.

Sections are in the paper's order, each experiment with its figures, tables, and how it was made; then those on how far
results go: the paper beside them, self-checks, provenance, and what is missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from nnsight_et.core.errors import ResultError, quantity
from nnsight_et.display.table import Table, number
from nnsight_et.methods import METHODS
from nnsight_et.methods.sections import SECTIONS
from nnsight_et.models.named import EMBEDDED, KNOWN_MODELS
from nnsight_et.report.html import palette
from nnsight_et.report.html.drawing import DrawnGroup, draw_group
from nnsight_et.report.html.parts import template, text_of
from nnsight_et.report.paper import paper_tables
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import method_of, models_of, name_of
from nnsight_et.results.store import Result, ResultHeader
from nnsight_et.results.study import Missing, Study, notice_text

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
    spec = json.dumps(header.job, indent=2, sort_keys=True, ensure_ascii=False)
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
    reproduces = header.job.get("spec", {}).get("reproduces") or ()
    return name_of(header) + (f" · {', '.join(reproduces)}" if reproduces else "")


def _facts(header: ResultHeader) -> str:
    """The experiment in a line: its method, its models, what it was made from, how long it took."""
    facts = [method_of(header).replace("_", " "), models_of(header)]
    if needs := header.job.get("needs"):
        facts.append(f"from {', '.join(needs)}")
    if (examples := header.job.get("spec", {}).get("examples")) is not None:
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
        found = [untitled_table(table, name) for table in _paper_tables(header)]
        if found:
            short = tuple(table for table in found if len(table.rows) < FOLDED_FROM)
            long = tuple(table for table in found if len(table.rows) >= FOLDED_FROM)
            facts = " · ".join(filter(None, (method_of(header).replace("_", " "), models_of(header))))
            entries.append(ReportEntry(name, f"paper-{name}", name, facts, tables=short, folded=long))
    lead = "The published number, ours, and the difference, where both exist."
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
    folded = (ReportEntry("checks", "checks", "Every check", "Computed twice, or known beforehand.", folded=(table,)),)
    return Section("self-check", "Self-check", lead, folded if rows else ())


NOTHING = "Nothing: every experiment of the manifest is above."
UNPLANNED = "Nothing that these results were made from. Made from a folder: the manifest may have more experiments."
PASSED, FAILED = "passed", "failed"


def checks_of(header: ResultHeader) -> Sequence[Mapping[str, Any]]:
    """The checks recorded with a result; none where they were off or there was nothing to check."""
    return header.self_check.get("checks") or ()


def has_passed(check: Mapping[str, Any]) -> bool:
    """Whether the largest difference is within what was accepted; not if there is no number."""
    worst, tolerance = check.get("worst"), check.get("tolerance")
    return worst is not None and tolerance is not None and worst <= tolerance


def provenance(study: Study) -> Section:
    """The models' fingerprints, the versions, and how and where each experiment was computed."""
    headers = _headers(study)
    models = dict.fromkeys((one.name, one.fingerprint, one.description) for header in headers for one in header.models)
    versions = dict.fromkeys(pair for header in headers for pair in header.versions.items())
    rows = []
    for header in headers:
        job = header.job
        settings = (str(job.get(key)) for key in ("seed", "engine", "dtype", "attention"))
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
    note = "job: digest of what was asked for; identity: of that and the models' files; data: of the encoded examples."
    every = [
        ReportEntry(
            "runs", "runs", "Every experiment", "", folded=(numeric_table(columns, rows, "How and where", note),)
        )
    ]
    if scored := list(dict.fromkeys(row for header in headers for row in _tokens(header))):
        columns = ("model", "as", "text", "token", "id")
        lead = "Each is the next token after a base prompt. The text in quotes shows whether a space is part of it."
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
    lead = "Experiments of the manifest that are not above; `et run` continues where it was."
    return Section("missing", "What is missing", lead, tables=(table,))


def _tokens(header: ResultHeader) -> Iterator[tuple[str, ...]]:
    """The tokens that a result was scored by: model, what they are, text, name in the vocabulary, and id."""
    for model, said in header.summary.get("tokens", {}).items():
        for role in ("answer", "also right", "foil"):
            for one in said.get(role, ()):
                yield model, role, one["text"], one["token"], str(one["id"])


def _headers(study: Study) -> list[ResultHeader]:
    return [result.header for result in study.results]


def _paper_tables(header: ResultHeader) -> tuple[Table, ...]:
    try:
        return paper_tables(header)
    except ResultError:
        return ()


def _check(experiment: str, check: Mapping[str, Any]) -> tuple[str, ...]:
    known = ("check", "worst", "tolerance")
    of = ", ".join(f"{key} {value}" for key, value in check.items() if key not in known and value is not None)
    numbers = ("–" if check.get(key) is None else f"{check[key]:.2g}" for key in known[1:])
    return (experiment, str(check.get("check")), of, *numbers, PASSED if has_passed(check) else FAILED)


REPORT = "report.html"


@dataclass(frozen=True)
class Limit:
    """Something to know before reading on."""

    text: str
    anchor: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    value: str
    name: str
    more: str


def report_html(study: Study) -> str:
    """The report as HTML; the same results give the same text."""
    sections, unshown = method_sections(study)
    sections = (*sections, *paper(study), self_check(study), provenance(study), missing(study, unshown))
    style = text_of("style.css") + text_of("figures.css") + palette.rules()
    script = text_of("script.js")
    return template("page.html.j2").render(
        study=study,
        opening=_opening(study),
        limits=limits(study, len(unshown)),
        tiles=tiles(study),
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_sha(style)}'; script-src '{_sha(script)}'; base-uri 'none'",
        closing="Made by nnsight_et from the results beside this file. The same results give the same report.",
    )


def limits(study: Study, unshown: int) -> list[Limit]:
    """What limits the results: what they say first, stand-in models, missing experiments, checks failed or not made."""
    found = [Limit(notice_text(notice, names), f"x-{names[0]}") for notice, names in study.notices.items()]
    if tiny := embedded_models(study):
        found.append(
            Limit(
                f"These are small embedded models made for this package ({', '.join(tiny)}). They show that the "
                "methods work; they are no evidence for the paper's findings."
            )
        )
    if count := len(study.missing) + unshown:
        found.append(Limit(f"Missing here: {quantity(count, 'experiment')}.", "missing"))
    headers = [result.header for result in study.results]
    failed = {name_of(header) for header in headers if not all(map(has_passed, checks_of(header)))}
    if failed:
        found.append(Limit(f"Self-check failed in {', '.join(sorted(failed))}.", "self-check", bad=True))
    unchecked = [name_of(header) for header in headers if header.models and not checks_of(header)]
    if unchecked:
        found.append(Limit(f"Without a self-check: {', '.join(unchecked)}.", "self-check"))
    return found


def tiles(study: Study) -> list[Tile]:
    """The faithfulness of the first circuit that was evaluated, on every model, and the sizes of all circuits."""
    found = []
    evaluated = [result.header for result in study.results if method_of(result.header) == "faithfulness"]
    for row in evaluated[0].summary.get("rows", ()) if evaluated else ():
        low, high = row.get("faithfulness_interval") or (None, None)
        bounds = f"95% interval {number(low)} to {number(high)}; " if low is not None else ""
        more = f"{bounds}accuracy {number(row['circuit'])} of {number(row['full'])}"
        found.append(Tile(number(row["faithfulness"]), f"faithfulness on {row['model']}", more))
    for header in final_circuits(study):
        groups = header.summary["circuit"]["groups"]
        parts = " · ".join(f"{len(group['heads'])} {group['name'].replace('_', ' ')}" for group in groups)
        size = sum(len(group["heads"]) for group in groups)
        kind = "minimal circuit" if method_of(header) == "minimality" else "circuit"
        found.append(Tile(quantity(size, "head"), f"{kind} of {models_of(header)}", parts))
    checks = [check for result in study.results for check in checks_of(result.header)]
    if checks:
        share = f"{sum(map(has_passed, checks))} of {len(checks)}"
        found.append(Tile(share, "self-checks passed", "computed twice, or known beforehand"))
    return found


def final_circuits(study: Study) -> list[ResultHeader]:
    """The results that find a circuit no minimality experiment here goes on from."""
    headers = [result.header for result in study.results]
    pruned = {header.job["spec"].get("circuit") for header in headers if method_of(header) == "minimality"}
    finders = [header for header in headers if method_of(header) in ("path_patching", "minimality")]
    return [header for header in finders if name_of(header) not in pruned and header.summary["circuit"]["groups"]]


def embedded_models(study: Study) -> list[str]:
    """The models of this package among those that were used under their own names."""
    used = {
        str(model.get("name"))
        for result in study.results
        for model in result.header.job.get("models", ())
        if "path" not in model
    }
    return [name for name, named in KNOWN_MODELS.items() if name in used and named.spec.path.startswith(str(EMBEDDED))]


def _opening(study: Study) -> str:
    models = dict.fromkeys(record.name for result in study.results for record in result.header.models)
    task = next((result.header.job.get("task", {}) for result in study.results), {})
    kind = f" Task: {task['kind']}." if "kind" in task else ""
    if "boxes" in task:
        kind = f" Task: {task['kind']}, {task['boxes']} boxes."
    if task.get("kind") == "pairs":
        kind = f" Task: own pairs at {', '.join([*task['positions'], 'last'])}."
    total = len(study.results) + len(study.missing)
    done = f"{len(study.results)} {f'of {total} ' if study.planned else ''}experiments are here."
    return f"Circuits by path patching and their evaluation, on {', '.join(models) or 'no model'}.{kind} {done}"


def _sha(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
