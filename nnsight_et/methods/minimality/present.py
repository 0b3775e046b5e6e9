"""What results of minimality are shown with: tables, figures, rows of long tables, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from nnsight_et.core.circuit import Head
from nnsight_et.display.circuit_figures import drawn_circuit
from nnsight_et.display.figures import (
    Plate,
)
from nnsight_et.display.measurement import (
    Measurement,
    of_experiment,
)
from nnsight_et.display.table import (
    Table,
    several,
    table_of,
)
from nnsight_et.results.headers import ResultHeader, models_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """What is left of each group, with what each head adds."""
    rows = []
    for group in dict.fromkeys(row["group"] for row in header.summary["heads"]):
        tried = [row for row in header.summary["heads"] if row["group"] == group]
        kept = [f"{row['head']} {_share(row['contribution'])}" for row in tried if row["kept"]]
        rows.append({"group": group, "tried": len(tried), "kept": len(kept), "heads": ", ".join(kept)})
    columns = {"group": "group", "heads tried": "tried", "kept": "kept", "head and what it adds": "heads"}
    note = "What a head adds: accuracy with it over accuracy without it, minus 1, as a share (App. B)."
    if ties := [row["head"] for row in header.summary["heads"] if row.get("tied")]:
        note += " Tie: more heads make up equally for these than may be removed with them, so which were removed is "
        note += f"partly arbitrary: {several(ties)}."
    if any(row["contribution"] == "infinite" for row in header.summary["heads"]):
        note += " Infinite: without the head the circuit answers nothing right."
    return (table_of(header, f"minimal circuit of {models_of(header)}", columns, rows, note),)


def _share(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:+.3f}"


def figures(result: Result, study: Study) -> tuple[Plate, ...]:
    """The circuit that is left; its arrows are known where the study has the experiment that found it."""
    header = result.header
    found = study.result(str(header.job["spec"].get("circuit")))
    stages = found.header.summary.get("stages", ()) if found else ()
    return (drawn_circuit(result, stages, header.summary["circuit"], f"Minimal circuit of {models_of(header)}"),)


def metrics(result: Result) -> Iterator[Measurement]:
    """Per group: how many heads were tried and kept."""
    rows = result.header.summary["heads"]
    for group in dict.fromkeys(row["group"] for row in rows):
        place = replace(of_experiment(result.header), group=group)
        tried = [row for row in rows if row["group"] == group]
        yield place.of("tried", len(tried))
        yield place.of("kept", sum(row["kept"] for row in tried))


def heads(result: Result) -> Iterator[Measurement]:
    """Per head of the candidate circuit: accuracy with and without it, and what it adds."""
    positions = {group["name"]: group["at"] for group in result.header.summary["candidate"]["groups"]}
    for row in result.header.summary["heads"]:
        place = replace(of_experiment(result.header), group=row["group"], at=positions[row["group"]], kept=row["kept"])
        for name in ("contribution", "before", "after"):
            value = inf if row[name] == "infinite" else row[name]
            yield place.at_head(Head.parse(row["head"])).of(name, value, row.get(f"{name}_interval"))
