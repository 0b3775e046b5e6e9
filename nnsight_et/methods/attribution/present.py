"""What results of attribution are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nnsight_et.display.figures import DataPoint, FigureGroup, Point, Scatter
from nnsight_et.display.marks import plate
from nnsight_et.display.measurement import TidyRow, all_heads, number_at, of_experiment, tensors_of_group
from nnsight_et.display.table import Table, number, several, table_of
from nnsight_et.methods.attribution.summary import Agreement, AttributionSummary
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study


def headline(summary: AttributionSummary) -> str:
    """How well the estimate ranks heads, position by position."""
    return "rank correlation " + several([f"{number(row.spearman)} at {row.at}" for row in summary.rows], 4)


def tables(header: ResultHeader, summary: AttributionSummary) -> tuple[Table, ...]:
    """How well the gradient's estimate agrees with the exact effects."""
    columns: dict[str, Callable[[Agreement], str | float | None]] = {
        "at": lambda row: row.at,
        "pearson": lambda row: row.pearson,
        "spearman": lambda row: row.spearman,
        "top heads found": lambda row: f"{round(row.top_found * row.top)} of {row.top}",
    }
    return (
        table_of(
            header,
            f"attribution in {models_of(header)}",
            columns,
            summary.rows,
            "Correlations are over all heads at a position.",
        ),
    )


def figures(result: MethodResult[AttributionSummary], study: Study) -> tuple[FigureGroup, ...]:
    """A point per head: exact and estimated effect."""
    panels = list[Scatter]()
    for row in result.summary.rows:
        at, points = row.at, list[Point]()
        exact, estimate = (result.scores[f"{at}.{name}"] for name in ("exact", "attributed"))
        for layer in range(exact.shape[0]):
            for head in range(exact.shape[1]):
                x, y = exact[layer, head].item(), estimate[layer, head].item()
                text = f"L{layer}H{head}: exact {x:+.3f}, estimated {y:+.3f}"
                points.append(Point(DataPoint(x, None, text), DataPoint(y, None, text), text))
        panels.append(Scatter(f"at {at}", ("exact effect", "estimate"), (("heads", tuple(points)),), shares=False))
    title = f"Gradient estimates and exact effects in {models_of(result.header)}"
    return (
        plate(
            result, "attribution", title, "One point per head. On the diagonal the estimate is exact.", tuple(panels)
        ),
    )


def metrics(result: MethodResult[AttributionSummary]) -> Iterator[TidyRow]:
    """Per position: how well the gradient's estimate agrees with the exact effects."""
    for row in result.summary.rows:
        place = replace(of_experiment(result.header), at=row.at)
        yield place.of("pearson", row.pearson)
        yield place.of("spearman", row.spearman)
        yield place.of("top_found", row.top_found)


def heads(result: MethodResult[AttributionSummary]) -> Iterator[TidyRow]:
    """Per position and head: the exact effect of patching its output, and the gradient's estimate of it."""
    for row in result.summary.rows:
        tensors = tensors_of_group(result, row.at)
        place = replace(of_experiment(result.header), at=row.at)
        for head in all_heads(tensors["exact"]):
            one, values = place.at_head(head), {name: number_at(tensor, head) for name, tensor in tensors.items()}
            yield one.of("exact_effect", values["exact"], (values["low"], values["high"]))
            yield one.of("attributed_effect", values["attributed"])
