"""What results of attention patterns are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import quantity
from nnsight_et.display.figures import Cell as MapCell
from nnsight_et.display.figures import FigureGroup, HeatMap
from nnsight_et.display.marks import plate
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.table import Table, number, table_of
from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary, HeadAttention
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: AttentionPatternsSummary) -> str:
    """The head that looks most at one named position."""
    named = [(row.weights[to], row.head, to) for row in summary.rows for to in summary.columns if to != "other"]
    weight, head, to = max(named, default=(0.0, "", ""))
    return f"{quantity(len(summary.rows), 'head')}" + (
        f"; strongest: {head} to {to} ({number(weight)})" if head else ""
    )


def tables(header: ResultHeader, summary: AttentionPatternsSummary) -> tuple[Table, ...]:
    """Where each head of the circuit looks from its position."""
    columns: dict[str, Callable[[HeadAttention], str | float]] = {
        "group": lambda row: row.group,
        "at": lambda row: row.at,
        "head": lambda row: row.head,
    }
    columns |= {to: lambda row, to=to: row.weights[to] for to in summary.columns}
    title = f"attention of the circuit's heads in {models_of(header)}"
    return (table_of(header, title, columns, summary.rows, "Mean attention weight from the head's position."),)


def figures(result: MethodResult[AttentionPatternsSummary], study: Study) -> tuple[FigureGroup, ...]:
    """A map per group: heads by where they look."""
    rows, columns = result.summary.rows, tuple(result.summary.columns)
    panels = list[HeatMap]()
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        cells = tuple(
            tuple(MapCell(row.weights[to], f"{row.head} to {to}: {number(row.weights[to], 3)}") for to in columns)
            for row in mine
        )
        heads = tuple(row.head for row in mine)
        panels.append(HeatMap(f"{group}, at {mine[0].at}", heads, columns, cells, 1.0, False, ("head", "attends to")))
    title = f"Where the circuit's heads look in {models_of(result.header)}"
    return (plate(result, "attention", title, "Mean attention weight from the head's position.", tuple(panels)),)


def heads(result: MethodResult[AttentionPatternsSummary]) -> Iterator[TidyRow]:
    """Per head of the circuit: its mean attention from its position to each place."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), group=row.group, at=row.at)
        for column in result.summary.columns:
            to = replace(place.at_head(Head.parse(row.head)), condition=f"to {column}")
            yield to.of("attention", row.weights[column])
