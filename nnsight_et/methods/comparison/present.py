"""What comparisons of circuits are shown with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnsight_et.core.circuit import Head
from nnsight_et.display.figures import (
    Impact,
    Plate,
)
from nnsight_et.display.marks import plate
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
    of_row,
)
from nnsight_et.display.paper import PaperNumbers
from nnsight_et.display.table import (
    Table,
    number,
    rows_of,
    table_of,
)
from nnsight_et.results.headers import ResultHeader
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """How two circuits overlap, group by group."""
    columns = {key: key for key in ("group", "first", "second", "shared", "precision", "recall")}
    note = (
        "Precision: the share of the first circuit's heads that the second has; recall: the other way (Tables A6, A10)."
    )
    return (table_of(header, "overlap", columns, rows_of(header), note),)


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """All heads of both circuits by how much they matter, if that is known."""
    heads = result.header.summary.get("impact")
    if not heads:
        return ()
    names = tuple(result.header.job["spec"]["circuits"])
    members = tuple((head["in_finetuned"], head["in_pretrained"]) for head in heads)
    texts = tuple(
        f"{head['head']}: |score| {number(head['score'], 3)}; {_membership(names, member)}"
        for head, member in zip(heads, members, strict=True)
    )
    values, labels = tuple(head["score"] for head in heads), tuple(head["head"] for head in heads)
    panel = Impact("causal impact", (names[1], names[0]), labels, values, members, texts)
    caption = (
        f"All heads of both circuits by their |patching score| in {result.header.job['spec']['scores']}, in the same "
        f"order above and below; filled: in {names[1]} (above), in {names[0]} (below)."
    )
    return (plate(result, "impact", f"Causal impact: {names[0]} and {names[1]}", caption, (panel,)),)


def _membership(names: Sequence[str], member: tuple[bool, bool]) -> str:
    inside = [name for name, there in zip(names, reversed(member), strict=True) if there]
    return f"in {' and '.join(inside)}" if inside else "in neither"


def metrics(result: Result) -> Iterator[Measurement]:
    """Per group: the circuits' sizes and their overlap."""
    for row in result.header.summary["rows"]:
        place = replace(of_experiment(result.header), group=row["group"])
        yield from of_row(place, row, {name: name for name in ("first", "second", "shared", "precision", "recall")})


def heads(result: Result) -> Iterator[Measurement]:
    """Per head: the patching score it is ordered by, as its size."""
    for row in result.header.summary.get("impact") or ():
        names = [name for name in ("pretrained", "finetuned") if row[f"in_{name}"]]
        place = replace(of_experiment(result.header), condition=f"in {' and '.join(names)}")
        yield place.at_head(Head.parse(row["head"])).of("causal_impact", row["score"])


def paper_numbers(summary: Mapping[str, Any]) -> PaperNumbers:
    """Per group: the overlap."""
    for row in summary["rows"]:
        for column, key in {"intersection": "shared", "precision": "precision", "recall": "recall"}.items():
            yield (row["group"], column), row[key]
