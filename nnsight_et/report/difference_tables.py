"""A difference of two runs as tables, and as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

from nnsight_et.core.errors import quantity
from nnsight_et.display.measurement import TidyRow
from nnsight_et.display.table import Table
from nnsight_et.report.difference import Difference, ValueChange

SHOWN = ("patching_score", "contribution", "mask", "exact_effect", "attention", "causal_impact")
"""The metrics of heads that tables show; the plain data has all."""
ABSENT = "–"


def difference_tables(found: Difference, top: int = 10) -> tuple[Table, ...]:
    """The tables of a difference, those without rows left out.

    What differs in an experiment at more than `top` places, as probes and layers do, comes behind: the `top` largest,
    as of single heads' values.
    """
    many = [place for place, count in Counter(map(_metric, found.metrics)).items() if count > top]
    few = [change for change in found.metrics if _metric(change) not in many]
    tables = (
        _only_table(found),
        _changes_table(found),
        _members_table(found),
        _metrics_table(found, few),
        _places_table(found, many, top),
        _heads_table(found, top),
    )
    return tuple(map(_filled, (table for table in tables if table.rows)))


def version_note(found: Difference) -> str:
    """That other versions of this package wrote the two, in a sentence; empty where one did."""
    pairs = {(one.a, one.b): one for one in found.changes if (one.part, one.key) == ("version", "nnsight_et")}
    told = [
        f"nnsight_et {a} wrote A and {b} wrote B"
        + ("" if len(one.experiments) == len(found.compared) else f" ({', '.join(one.experiments)})")
        for (a, b), one in pairs.items()
    ]
    return f"Other versions: {'; '.join(told)}. What differs may come from that." if told else ""


def _filled(table: Table) -> Table:
    """The table without the columns that say nothing in any row; those of A and B stay."""
    shown = [
        index
        for index, column in enumerate(table.columns)
        if column in ("A", "B") or any(row[index] not in ("", ABSENT) for row in table.rows)
    ]
    columns, rows = (
        tuple(table.columns[index] for index in shown),
        tuple(tuple(row[index] for index in shown) for row in table.rows),
    )
    return replace(table, columns=columns, rows=rows, numeric=table.numeric & set(columns))


def difference_data(found: Difference) -> dict[str, Any]:
    """The whole difference as plain data; null where a number does not exist."""
    return {
        "same": found.same,
        "tolerance": found.tolerance,
        "compared": found.compared,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "changes": [asdict(change) for change in found.changes],
        "metrics": [_plain(change) for change in found.metrics],
        "heads": [_plain(change) for change in found.heads],
        "groups": [asdict(members) for members in found.members],
    }


def _plain(change: ValueChange) -> dict[str, Any]:
    one = change.one
    where = {key: getattr(one, key) for key in ("group", "at", "desideratum", "condition", "head", "layer", "metric")}
    where = {"experiment": change.experiment} | {key: value for key, value in where.items() if value not in ("", None)}
    sides = {"a": _side(change.a), "b": _side(change.b)}
    return where | sides | {"difference": _finite(change.difference), "intervals_overlap": change.overlap}


def _side(one: TidyRow | None) -> dict[str, Any] | None:
    if one is None:
        return None
    names = ("value", "low", "high", "p", "p_adjusted")
    found: dict[str, Any] = {name: _finite(getattr(one, name)) for name in names}
    found |= {"model": one.model or None, "kept": one.kept}
    return {name: value for name, value in found.items() if name == "value" or value is not None}


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _only_table(found: Difference) -> Table:
    rows = [(name, "only in A") for name in found.only_a] + [(name, "only in B") for name in found.only_b]
    return Table("experiments in one only", ("experiment", "where"), tuple(rows))


def _changes_table(found: Difference) -> Table:
    rows = []
    for change in found.changes:
        every = len(change.experiments) == len(found.compared)
        names = (
            (f"all {len(found.compared)}" if len(found.compared) > 1 else "")
            if every
            else ", ".join(change.experiments)
        )
        rows.append((change.part, change.key, change.a or ABSENT, change.b or ABSENT, names))
    return Table("how they were made", ("what", "key", "A", "B", "experiments"), tuple(rows))


VALUES = ("experiment", "of", "metric", "A", "B", "difference", "intervals")


def _metric(change: ValueChange) -> tuple[str, str]:
    return change.experiment, change.one.metric


def _metrics_table(found: Difference, some: Iterable[ValueChange]) -> Table:
    note = f"Values that differ by more than {found.tolerance:g}. In brackets: 95% intervals."
    return Table("metric by metric", VALUES, tuple(map(_value_row, some)), frozenset({"difference"}), note)


def _places_table(found: Difference, many: Iterable[tuple[str, str]], top: int) -> Table:
    """Of metrics with many values those in both that lie farthest apart, and how many there are."""
    rows, told = list[ValueChange](), list[str]()
    for experiment, metric in many:
        changes = [change for change in found.metrics if _metric(change) == (experiment, metric)]
        both = [change for change in changes if change.difference is not None]
        rows += (both or changes)[:top]
        alone = f", {len(changes) - len(both)} of them in one only" if len(both) < len(changes) else ""
        told.append(f"{experiment}: {len(changes)} of {metric} differ{alone}.")
    note = f"The {top} largest differences of each; --top shows more, --json all. {' '.join(told)}"
    return Table("metrics with many values", VALUES, tuple(map(_value_row, rows)), frozenset({"difference"}), note)


def _value_row(change: ValueChange) -> tuple[str, ...]:
    return change.experiment, _place(change), change.one.metric, *_both(change), _overlap(change)


def _members_table(found: Difference) -> Table:
    rows = tuple(
        (
            members.experiment,
            " ".join(part for part in (members.group, members.desideratum) if part),
            str(len(members.both)),
            " ".join(members.only_a) or ABSENT,
            " ".join(members.only_b) or ABSENT,
        )
        for members in found.members
        if members.only_a or members.only_b
    )
    columns = ("experiment", "group", "in both", "only in A", "only in B")
    same = len(found.members) - len(rows)
    more = f" {quantity(same, 'other row')} with the same in both." if same else ""
    note = f"Heads that are kept or selected; of a graph its nodes, groups and edges.{more}"
    return Table("head by head: membership", columns, rows, frozenset({"in both"}), note)


def _heads_table(found: Difference, top: int) -> Table:
    told = [change for change in found.heads if change.one.metric.startswith(SHOWN) and change.a and change.b]
    rows = tuple(
        (change.experiment, _place(change), change.one.head, change.one.metric, *_both(change), _overlap(change))
        for change in told[:top]
    )
    columns = ("experiment", "of", "head", "metric", "A", "B", "difference", "intervals")
    left = f" The {len(rows)} largest of {len(told)}; --top shows more, --json all." if len(told) > len(rows) else ""
    note = f"Values of heads measured in both runs that differ by more than {found.tolerance:g}.{left}"
    return Table("head by head: scores", columns, rows, frozenset({"difference"}), note)


def _place(change: ValueChange) -> str:
    """What a value is of, in words."""
    return ", ".join(_parts(change)) or ABSENT


def _parts(change: ValueChange) -> Iterator[str]:
    models = list(dict.fromkeys(side.model for side in (change.a, change.b) if side is not None))
    if len(models) == 1 and models[0]:
        yield models[0]
    one = change.one
    yield from (part for part in (one.group, one.desideratum, one.condition) if part)
    if one.at and not one.group:
        yield f"at {one.at}"
    if one.layer is not None and not one.head:
        yield f"from L{one.layer}"


def _both(change: ValueChange) -> tuple[str, str, str]:
    gap = change.difference
    return _value_text(change.a), _value_text(change.b), ABSENT if gap is None else f"{gap:+.4g}"


def _value_text(one: TidyRow | None) -> str:
    if one is None:
        return ABSENT
    bounds = "" if one.low is None or one.high is None else f" [{one.low:.3g}, {one.high:.3g}]"
    return (ABSENT if one.value is None else f"{one.value:.4g}") + bounds


def _overlap(change: ValueChange) -> str:
    return {True: "overlap", False: "apart", None: ABSENT}[change.overlap]
