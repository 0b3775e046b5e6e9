"""What must hold of comparisons on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.methods.comparison.summary import ComparisonSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import Statement, fewer, near


def statements(known: Known, _: str, result: MethodResult[ComparisonSummary]) -> Iterator[Statement]:
    """The overlap of the circuit with the one that lacks a head."""
    rows = {row.group: row for row in result.summary.rows}
    for whole, part in zip(known.circuit.groups, fewer(known.circuit).groups, strict=True):
        row = rows[whole.name]
        yield near(f"{whole.name}: precision", len(part.heads) / len(whole.heads), row.precision, 0)
        yield near(f"{whole.name}: recall", 1.0, row.recall, 0)
