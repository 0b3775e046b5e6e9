"""What must hold of results of attention patterns: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.methods.attention_patterns.summary import AttentionPatternsSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import LOOKS, Statement


def statements(known: Known, _: str, result: MethodResult[AttentionPatternsSummary]) -> Iterator[Statement]:
    """Every planted head looks where it was built to look."""
    for name, group in known.groups.items():
        rows = [row for row in result.summary.rows if row.group == name]
        least = min(row.weights[group.looks_at] for row in rows)
        yield Statement(
            f"{name} at {group.looks_at}", f"at least {LOOKS}", f"{least:.2f}", least >= LOOKS, {"least": least}
        )
