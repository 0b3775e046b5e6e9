"""The tables of docs/real_study.md over several runs: which heads are found again, and where their circuits work.

`python -m tools.stability RUNS FOLDER` copies the circuits of the runs of examples/real_study/stable.yaml to FOLDER,
where examples/real_study/across.yaml reads them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TypeVar

from nnsight_et.core.circuit import Circuit, Head
from nnsight_et.display.table import Table, bounded, number
from nnsight_et.methods.faithfulness.summary import FaithfulnessRow, FaithfulnessSummary
from nnsight_et.methods.path_patching.summary import PathPatchingSummary
from nnsight_et.results.headers import HEADER
from nnsight_et.results.store import MethodResult
from nnsight_et.results.study import Study
from nnsight_et.results.summary import Summary

S = TypeVar("S", bound=Summary)
SEEDS = ("seed-20", "seed-21")
FOUND_WITH = {"smollm2": (*SEEDS, "seed-22", "sentence-2", "sentence-3"), "gemma3": SEEDS}
"""By model, the runs of stable.yaml, without real-. Seeds have sentence 1; other sentences have seed 20."""
SENTENCES = (1, 2, 3)
RUNS = (*(f"real-{name}" for name in FOUND_WITH["smollm2"]), *(f"real-across-{sentence}" for sentence in SENTENCES))


def newest(runs: Path, name: str) -> Path:
    """The folder of the newest finished run of a name."""
    return max((path.parent for path in runs.glob(f"{name}/*/report.html")), key=lambda one: one.stat().st_mtime)


def copy_circuits(runs: Path, folder: Path) -> None:
    """FOLDER/MODEL-NAME.json: each circuit's result."""
    folder.mkdir(parents=True, exist_ok=True)
    for model, names in FOUND_WITH.items():
        for name in names:
            shutil.copy(newest(runs, f"real-{name}") / model / HEADER, folder / f"{model}-{name}.json")


def table(studies: Mapping[str, Study], model: str, what: str) -> Table:
    """`heads`: a row for each group of a model's circuits; `faithfulness`: a row for each circuit."""
    return _heads(studies, model) if what == "heads" else _faithfulness(studies, model)


def _read(study: Study, experiment: str, summary: type[S]) -> MethodResult[S]:
    result = study.result(experiment)
    assert result is not None, experiment
    return result.read(summary)


def _heads(studies: Mapping[str, Study], model: str) -> Table:
    results = [_read(studies[f"real-{name}"], model, PathPatchingSummary) for name in FOUND_WITH[model]]
    circuits = [result.summary.circuit.to_circuit() for result in results]
    heads = results[0].scores[f"{circuits[0].groups[0].name}.score"].numel()
    columns = ("group", "in all", "in most", "in fewer", "overlap", "by chance")
    rows = tuple(row_of(circuits, group.name, heads) for group in circuits[0].groups)
    return Table("heads found again", columns, rows, frozenset(columns[-2:]))


def row_of(circuits: Sequence[Circuit], name: str, heads: int) -> tuple[str, ...]:
    """A group's heads with their ranks, by how many circuits have them, and how much the circuits' groups overlap.

    heads: how many the model has. Overlap is the mean Jaccard index of two circuits' groups.
    """
    found = [next(group.heads for group in circuit.groups if group.name == name) for circuit in circuits]
    ranks: dict[Head, list[int]] = {}
    for group in found:
        for rank, head in enumerate(group, start=1):
            ranks.setdefault(head, []).append(rank)
    order = sorted(ranks, key=lambda head: (sum(ranks[head]) / len(ranks[head]), head))
    every, half = len(found), len(found) // 2
    cells = [
        ", ".join(_ranked(head, ranks[head]) for head in order if least <= len(ranks[head]) <= most) or "–"
        for least, most in ((every, every), (half + 1, every - 1), (1, half))
    ]
    pairs = list(combinations(map(set, found), 2))
    overlap = sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)
    chance = sum(_by_chance(len(a), len(b), heads) for a, b in pairs) / len(pairs)
    return (name, *cells, number(overlap), number(chance))


def _ranked(head: Head, ranks: Sequence[int]) -> str:
    first, last = min(ranks), max(ranks)
    return f"{head} ({first})" if first == last else f"{head} ({first} to {last})"


def _by_chance(first: int, second: int, heads: int) -> float:
    """The expected share of heads in both of two groups, of those in either, if both were drawn from all heads."""
    shared = range(max(0, first + second - heads), min(first, second) + 1)
    ways = [comb(first, both) * comb(heads - first, second - both) for both in shared]
    return sum(way * both / (first + second - both) for way, both in zip(ways, shared, strict=True)) / sum(ways)


def _faithfulness(studies: Mapping[str, Study], model: str) -> Table:
    names = [f"sentence {sentence}" for sentence in SENTENCES]
    runs = [studies[f"real-across-{sentence}"] for sentence in SENTENCES]

    def of(name: str) -> list[FaithfulnessRow]:
        return [_read(run, f"{model}-{name}", FaithfulnessSummary).summary.rows[0] for run in runs]

    full = [bounded(row.full, row.full_interval) for row in of(FOUND_WITH[model][0])]
    rows = [("whole model's accuracy", *full)]
    for name in FOUND_WITH[model]:
        cells = [bounded(row.faithfulness, row.faithfulness_interval, row.differing) for row in of(name)]
        rows.append((name.replace("-", " "), *cells))
    return Table("faithfulness", ("found with", *names), tuple(rows), frozenset(names))


if __name__ == "__main__":
    copy_circuits(*map(Path, sys.argv[1:]))
