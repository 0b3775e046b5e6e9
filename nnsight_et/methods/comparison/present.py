"""What comparisons of circuits are shown with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import FigureGroup, ImpactPlot
from nnsight_et.display.marks import plate
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import Table, number, table_of
from nnsight_et.manifest import Comparison
from nnsight_et.methods.comparison.summary import ComparisonSummary, OverlapRow
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: ComparisonSummary) -> str:
    """How many heads both circuits have."""
    total = summary.rows[-1]
    return f"{quantity(total.shared, 'head')} shared by circuits of {total.first} and {total.second}"


def tables(header: ResultHeader, summary: ComparisonSummary) -> tuple[Table, ...]:
    """How two circuits overlap, group by group."""
    columns: dict[str, Callable[[OverlapRow], Any]] = {
        "group": lambda row: row.group,
        "first": lambda row: row.first,
        "second": lambda row: row.second,
        "shared": lambda row: row.shared,
        "precision": lambda row: row.precision,
        "recall": lambda row: row.recall,
    }
    note = (
        "Precision: the share of the first circuit's heads that the second has; recall: the reverse (Tables A6, A10)."
    )
    return (table_of(header, "overlap", columns, summary.rows, note),)


def figures(result: MethodResult[ComparisonSummary], study: Study) -> tuple[FigureGroup, ...]:
    """All heads of both circuits by how much they matter, if that is known."""
    heads = result.summary.impact
    if not heads:
        return ()
    spec = result.header.job.spec
    assert isinstance(spec, Comparison)
    names = spec.circuits
    members = tuple((head.in_finetuned, head.in_pretrained) for head in heads)
    texts = tuple(
        f"{head.head}: |score| {number(head.score, 3)}; {_membership(names, member)}"
        for head, member in zip(heads, members, strict=True)
    )
    values, labels = tuple(head.score for head in heads), tuple(head.head for head in heads)
    panel = ImpactPlot("causal impact", (names[1], names[0]), labels, values, members, texts)
    caption = (
        f"All heads of both circuits, ordered by |patching score| in {spec.scores}. A filled bar above is a head of "
        f"{names[1]}, below one of {names[0]}."
    )
    return (plate(result, "impact", f"Causal impact: {names[0]} and {names[1]}", caption, (panel,)),)


def _membership(names: Sequence[str], member: tuple[bool, bool]) -> str:
    inside = [name for name, there in zip(names, reversed(member), strict=True) if there]
    return f"in {' and '.join(inside)}" if inside else "in neither"


def metrics(result: MethodResult[ComparisonSummary]) -> Iterator[TidyRow]:
    """Per group: the circuits' sizes and their overlap."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), group=row.group)
        yield place.of("first", row.first)
        yield place.of("second", row.second)
        yield place.of("shared", row.shared)
        yield place.of("precision", row.precision)
        yield place.of("recall", row.recall)


def heads(result: MethodResult[ComparisonSummary]) -> Iterator[TidyRow]:
    """Per head: the patching score it is ordered by, as its size."""
    for row in result.summary.impact:
        names = [*["pretrained"] * row.in_pretrained, *["finetuned"] * row.in_finetuned]
        place = replace(of_experiment(result.header), condition=f"in {' and '.join(names)}")
        yield place.at_head(Head.parse(row.head)).of("causal_impact", row.score)


def paper_numbers(summary: ComparisonSummary) -> PaperNumbers:
    """Per group: the overlap."""
    for row in summary.rows:
        yield (row.group, "intersection"), row.shared
        yield (row.group, "precision"), row.precision
        yield (row.group, "recall"), row.recall
