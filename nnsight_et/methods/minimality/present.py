"""What results of minimality are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any, Literal

from nnsight_et.core.circuit import Head
from nnsight_et.core.errors import quantity
from nnsight_et.display.circuit_figures import StageView, drawn_circuit
from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.measurement import TidyRow, of_experiment
from nnsight_et.display.table import Table, number, several, table_of
from nnsight_et.manifest import Minimality
from nnsight_et.methods.minimality.summary import HeadRecord, MinimalitySummary
from nnsight_et.methods.path_patching.present import view_of
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.results.headers import ResultHeader, method_of, models_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: MinimalitySummary) -> str:
    """How many heads are left."""
    return f"{sum(row.kept for row in summary.heads)} of {quantity(len(summary.heads), 'head')} kept"


def tables(header: ResultHeader, summary: MinimalitySummary) -> tuple[Table, ...]:
    """What is left of each group, with what each head adds."""
    rows = list[dict[str, Any]]()
    for group, tried in _by_group(summary).items():
        kept = [f"{row.head} {_share(row.contribution)}" for row in tried if row.kept]
        rows.append({"group": group, "tried": len(tried), "kept": len(kept), "heads": ", ".join(kept)})
    columns = {"group": "group", "heads tried": "tried", "kept": "kept", "head and what it adds": "heads"}
    note = "What a head adds: accuracy with the head / accuracy without it, minus 1 (App. B)."
    if ties := [row.head for row in summary.heads if row.tied]:
        note += (
            " Tie: more heads compensate equally well for these than may be removed with them, so the removed set is "
        )
        note += f"partly arbitrary: {several(ties)}."
    if any(row.contribution == "infinite" for row in summary.heads):
        note += " Infinite: without the head the circuit answers nothing right."
    note = " ".join([note, *_doubts(header, summary)])
    return (table_of(header, f"minimal circuit of {models_of(header)}", columns, rows, note),)


def _doubts(header: ResultHeader, summary: MinimalitySummary) -> Iterator[str]:
    """Why there is nothing to prune, or nothing left, a sentence for each reason there is."""
    if not summary.heads:
        yield "The candidate circuit has no heads: there is nothing to prune. Choose a circuit with heads."
    elif not any(row.before or row.after for row in summary.heads):
        yield "The candidate circuit answers no prompt right, so no head can add anything. Look at its faithfulness."
        return
    for group, tried in _by_group(summary).items():
        if not any(row.kept for row in tried):
            most = max((row.contribution for row in tried if isinstance(row.contribution, float)), default=0.0)
            assert isinstance(header.job.spec, Minimality)
            yield f"No head of {group} is left: the most that one adds is {most:+.3f}, the threshold is"
            yield f"{header.job.spec.threshold}."


def _by_group(summary: MinimalitySummary) -> dict[str, list[HeadRecord]]:
    """Group -> its heads, in their order."""
    found: dict[str, list[HeadRecord]] = {}
    for row in summary.heads:
        found.setdefault(row.group, []).append(row)
    return found


def _share(value: float | Literal["infinite"] | None) -> str:
    return number(None) if value is None else value if isinstance(value, str) else f"{value:+.3f}"


def figures(result: MethodResult[MinimalitySummary], study: Study) -> tuple[FigureGroup, ...]:
    """The circuit that is left; its arrows are known where the study has the experiment that found it."""
    header, spec = result.header, result.header.job.spec
    assert isinstance(spec, Minimality)
    found = study.result(spec.circuit)
    stages: list[StageView] = []
    if found is not None and method_of(found.header) == "path_patching":
        stages = [view_of(stage) for stage in PathPatchingSummary.read(found.header).stages]
    return (drawn_circuit(result, stages, result.summary.circuit, f"Minimal circuit of {models_of(header)}"),)


def metrics(result: MethodResult[MinimalitySummary]) -> Iterator[TidyRow]:
    """Per group: how many heads were tried and kept."""
    for group, tried in _by_group(result.summary).items():
        place = replace(of_experiment(result.header), group=group)
        yield place.of("tried", len(tried))
        yield place.of("kept", sum(row.kept for row in tried))


def heads(result: MethodResult[MinimalitySummary]) -> Iterator[TidyRow]:
    """Per head of the candidate circuit: accuracy with and without it, and what it adds."""
    positions = {group.name: group.at for group in result.summary.candidate.groups}
    for row in result.summary.heads:
        place = replace(of_experiment(result.header), group=row.group, at=positions[row.group], kept=row.kept)
        head = place.at_head(Head.parse(row.head))
        yield head.of(
            "contribution", inf if row.contribution == "infinite" else row.contribution, row.contribution_interval
        )
        yield head.of("before", row.before, row.before_interval)
        yield head.of("after", row.after, row.after_interval)
