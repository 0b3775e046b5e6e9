"""The page: what a reader sees first, then the sections. One file; its policy forbids any other source."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import Diagram
from nnsight_et.display.table import FEW, Table, number
from nnsight_et.manifest import Minimality
from nnsight_et.methods.faithfulness.present import no_better_than_random
from nnsight_et.methods.faithfulness.summary import FaithfulnessSummary
from nnsight_et.models.catalog import EMBEDDED, KNOWN_MODELS
from nnsight_et.report.html import palette
from nnsight_et.report.html.drawing import DrawnGroup, draw_group
from nnsight_et.report.html.parts import template, text_of
from nnsight_et.report.html.sections import (
    ReportEntry,
    Section,
    checks_of,
    method_of,
    method_sections,
    missing,
    paper,
    provenance,
    self_check,
)
from nnsight_et.report.results import plates
from nnsight_et.results.headers import models_of, name_of
from nnsight_et.results.store import ResultHeader
from nnsight_et.results.study import Study, notice_text
from nnsight_et.results.summary import ShownPair, circuit_in, example_in

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
    names = {one.experiment for one in unshown}
    shown = replace(study, results=tuple(one for one in study.results if name_of(one.header) not in names))
    return render_page(
        title=study.name,
        opening=_opening(study),
        limits=limits(shown, len(unshown)),
        tiles=tiles(shown),
        first=first_circuit(shown),
        example=first_example(shown),
        sections=(*sections, *paper(shown), self_check(shown), provenance(shown), missing(study, unshown)),
    )


def beside_html(a: Study, b: Study, differences: Sequence[Table], names: tuple[str, str], note: str = "") -> str:
    """Two runs of these names side by side: what differs, then each experiment's figures of the one and the other.

    note: what to know before.
    """
    found = [Section("differences", "What differs", "A dash means that there is no value.", tables=tuple(differences))]
    sides = [{one.anchor: one for one in method_sections(study)[0]} for study in (a, b)]
    for anchor in dict.fromkeys(anchor for side in sides for anchor in side):
        section = next(side[anchor] for side in sides if anchor in side)
        parts = [{one.name: one for one in side[anchor].entries} if anchor in side else {} for side in sides]
        experiments = dict.fromkeys(name for part in parts for name in part)
        entries = tuple(_both_sides(*(part.get(name) for part in parts)) for name in experiments)
        found.append(Section(section.anchor, section.title, section.lead, entries, listed=True))
    return render_page(
        title="Two runs side by side",
        opening=f"A: {names[0]}. B: {names[1]}.",
        limits=[Limit(note, "differences")] if note else [],
        tiles=[
            replace(tile, name=f"{side}: {tile.name}")
            for side, one in zip("AB", (a, b), strict=True)
            for tile in tiles(one)
        ],
        first=None,
        sections=tuple(found),
        beside=True,
    )


def _both_sides(a: ReportEntry | None, b: ReportEntry | None) -> ReportEntry:
    """An experiment's figures and tables, those of A before those of B, each under its letter."""
    plates, tables = list[DrawnGroup](), list[Table]()
    for side, entry in (("A", a), ("B", b)):
        for drawn in entry.plates if entry else ():
            plate = replace(
                drawn.plate, name=f"{side.lower()}-{drawn.plate.name}", title=f"{side}: {drawn.plate.title}"
            )
            plates.append(replace(drawn, plate=plate))
        tables += [replace(one, title=f"{side}: {one.title}") for one in (*entry.first, *entry.tables)] if entry else []
    count = len(plates) // 2
    if a and b and len(a.plates) == len(b.plates):
        plates = [plates[index + side * count] for index in range(count) for side in (0, 1)]
    facts = " — ".join(f"{side}: {entry.facts}" for side, entry in (("A", a), ("B", b)) if entry)
    either = a or b
    assert either is not None
    return replace(
        either, facts=facts, plates=tuple(plates), first=(), tables=tuple(tables), folded=(), made="", folded_up=False
    )


def render_page(
    *,
    title: str,
    opening: str,
    limits: Sequence[Limit],
    tiles: Sequence[Tile],
    first: DrawnGroup | None,
    sections: Sequence[Section],
    example: ShownPair | None = None,
    beside: bool = False,
) -> str:
    """A page of its own: its policy forbids every other source."""
    style = text_of("style.css") + text_of("figures.css") + palette.rules()
    script = text_of("script.js")
    return template("page.html.j2").render(
        title=title,
        opening=opening,
        limits=limits,
        tiles=tiles,
        first=first,
        example=example,
        sections=sections,
        beside=beside,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_sha(style)}'; script-src '{_sha(script)}'; base-uri 'none'",
        closing="Made by nnsight_et from results. The same results give the same report.",
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
    for result in study.results:
        if method_of(result.header) == "faithfulness":
            doubts = map(no_better_than_random, FaithfulnessSummary.read(result.header).rows)
            found += [Limit(doubt, f"x-{name_of(result.header)}") for doubt in doubts if doubt]
    if count := len(study.missing) + unshown:
        found.append(Limit(f"Missing here: {quantity(count, 'experiment')}.", "missing"))
    headers = [result.header for result in study.results]
    failed = {name_of(header) for header in headers if not all(check.passed for check in checks_of(header))}
    if failed:
        found.append(Limit(f"Self-check failed in {', '.join(sorted(failed))}.", "self-check", bad=True))
    unchecked = [name_of(header) for header in headers if header.models and not checks_of(header)]
    if unchecked:
        found.append(Limit(f"Without a self-check: {', '.join(unchecked)}.", "self-check"))
    unseen = [name_of(header) for header in headers if header.probe == "off"]
    if unseen:
        found.append(Limit(f"Not compared with chance (probe: off): {', '.join(unseen)}."))
    return found


def tiles(study: Study) -> list[Tile]:
    """The faithfulness of the first circuit that was evaluated, on every model, and the sizes of all circuits."""
    found = []
    evaluated = [result.header for result in study.results if method_of(result.header) == "faithfulness"]
    for row in FaithfulnessSummary.read(evaluated[0]).rows if evaluated else ():
        low, high = row.faithfulness_interval
        bounds = f"95% interval {number(low)} to {number(high)}; " if low is not None else ""
        if row.differing is not None and row.differing < FEW:
            bounds += f"fewer than {FEW} prompts tell the two apart; "
        more = f"{bounds}accuracy {number(row.circuit)} of {number(row.full)}"
        found.append(Tile(number(row.faithfulness), f"faithfulness on {row.model}", more))
    for header, circuit in final_circuits(study):
        parts = " · ".join(f"{len(group.heads)} {group.name.replace('_', ' ')}" for group in circuit.groups)
        kind = "minimal circuit" if method_of(header) == "minimality" else "circuit"
        found.append(Tile(quantity(circuit.size, "head"), f"{kind} of {models_of(header)}", parts))
    checks = [check for result in study.results for check in checks_of(result.header)]
    if checks:
        share = f"{sum(check.passed for check in checks)} of {len(checks)}"
        found.append(Tile(share, "self-checks passed", "recomputed another way, or known in advance"))
    return found


def final_circuits(study: Study) -> Iterator[tuple[ResultHeader, Circuit]]:
    """The results that find a circuit no minimality experiment here goes on from, each with its circuit."""
    headers = [result.header for result in study.results]
    pruned = {header.job.spec.circuit for header in headers if isinstance(header.job.spec, Minimality)}
    for header in headers:
        if method_of(header) in ("path_patching", "minimality") and name_of(header) not in pruned:
            circuit = circuit_in(header)
            if circuit is not None and circuit.groups:
                yield header, circuit


def first_circuit(study: Study) -> DrawnGroup | None:
    """The diagram of the first circuit that no experiment here prunes further, under a name of its own."""
    for header, _ in final_circuits(study):
        result = study.result(name_of(header))
        for group in plates(result, study) if result else ():
            if isinstance(group.panels[0], Diagram):
                return draw_group(replace(group, name=f"first-{group.name}"))
    return None


def first_example(study: Study) -> ShownPair | None:
    """One pair of prompts of the task, of the first experiment that has one."""
    return next(filter(None, (example_in(result.header) for result in study.results)), None)


def embedded_models(study: Study) -> list[str]:
    """The models of this package among those that were used under their own names."""
    used = {model.name for result in study.results for model in result.header.job.models if model.path is None}
    return [name for name, named in KNOWN_MODELS.items() if name in used and named.spec.path.startswith(str(EMBEDDED))]


def _opening(study: Study) -> str:
    models = dict.fromkeys(record.name for result in study.results for record in result.header.models)
    task = study.results[0].header.job.task if study.results else None
    kind = f" Task: {task.kind}." if task else ""
    if task and task.boxes:
        kind = f" Task: {task.kind}, {task.boxes} boxes."
    if task and task.kind == "pairs":
        kind = f" Task: own pairs at {', '.join([*task.positions, 'last'])}."
    of = f"of {len(study.results) + len(study.missing)} " if study.planned else ""
    done = f"{len(study.results)} {of}experiments are here."
    return f"Circuits by path patching and their evaluation, on {', '.join(models) or 'no model'}.{kind} {done}"


def _sha(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
