"""The paper's numbers beside ours, for experiments that reproduce a table or figure of it."""

from __future__ import annotations

from collections.abc import Mapping

from nnsight_et.circuits import published
from nnsight_et.display.table import Table, number
from nnsight_et.methods import METHODS
from nnsight_et.models.catalog import EMBEDDED, KNOWN_MODELS
from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import ResultHeader


def paper_tables(header: ResultHeader) -> tuple[Table, ...]:
    """Paper, ours, difference: one table per table or figure that the experiment says it reproduces."""
    method = METHODS[method_of(header)]
    paper = method.experiment().paper
    if paper is None:
        return ()
    ours = dict(paper(method.summary.read(header)))
    return tuple(_table(header, name, ours) for name in header.job.spec.reproduces)


def _table(header: ResultHeader, name: str, ours: Mapping[tuple[str, str], float | None]) -> Table:
    rows = []
    for one in published.numbers():
        value = ours.get((one.row, one.column))
        if one.table == name and value is not None:
            gap = f"{value - one.value:+.2f}"
            rows.append((one.row, one.column, number(one.value), number(value), gap, one.source))
    columns = ("row", "column", "paper", "ours", "difference", "source of the paper's number")
    title = f"{name_of(header)}: {name} of the paper"
    return Table(title, columns, tuple(rows), frozenset(columns[2:5]), _note(header, bool(rows)))


def _note(header: ResultHeader, comparable: bool) -> str:
    if not comparable:
        return "None of our numbers corresponds to one of the paper's: the models or layers differ."
    models = [record.name for record in header.models]
    tiny = [name for name in models if name in KNOWN_MODELS and KNOWN_MODELS[name].spec.path.startswith(str(EMBEDDED))]
    if tiny:
        return (
            f"Ours are small embedded models ({', '.join(tiny)}) made for this package, in place of the paper's 7B "
            "models: the difference says nothing about the paper."
        )
    return f"Ours: {', '.join(models)}." if models else "Ours: the circuits of this manifest."
