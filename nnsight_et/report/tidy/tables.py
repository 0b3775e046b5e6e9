"""Finished experiments -> the tables of an export, each a header of columns and rows of plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from nnsight_et.display.measurement import COLUMNS
from nnsight_et.report.results import head_rows, metric_rows
from nnsight_et.report.tidy import examples
from nnsight_et.results.store import Result, ResultHeader

OF_A_HEAD = ("head", "index", "p_adjusted", "kept", "reached")
METRIC_COLUMNS = tuple(column for column in COLUMNS if column not in OF_A_HEAD)
EXPERIMENT_COLUMNS = (
    "experiment", "method", "models", "fingerprints", "data", "seed", "dtype", "engine", "device", "seconds",
    "self_checks", "versions", "identity",
)  # fmt: skip
Kind = Literal["integer", "number", "truth", "text"]
_KINDS: dict[Kind, set[str]] = {
    "integer": {"layer", "index", "variant", "example", "seed", "self_checks"},
    "number": {"value", "low", "high", "p", "p_adjusted", "seconds"},
    "truth": {"kept", "reached"},
}


@dataclass(frozen=True)
class Tidy:
    """A long table: its columns, and one tuple per row."""

    columns: tuple[str, ...]
    rows: list[tuple]


def experiments(results: Iterable[Result]) -> Tidy:
    """One row per experiment: what it was made of and how."""
    return Tidy(EXPERIMENT_COLUMNS, [_experiment(result.header) for result in results])


def metrics(results: Iterable[Result]) -> Tidy:
    """One row per value of a whole experiment: accuracies, faithfulness, overlap, counts."""
    kept = [COLUMNS.index(column) for column in METRIC_COLUMNS]
    rows = (one.to_row() for result in results for one in metric_rows(result))
    return Tidy(METRIC_COLUMNS, [tuple(row[index] for index in kept) for row in rows])


def heads(results: Iterable[Result]) -> Tidy:
    """One row per value of a head, such as its patching score in one stage."""
    return Tidy(COLUMNS, [one.to_row() for result in results for one in head_rows(result)])


def per_example(results: Iterable[Result]) -> Tidy:
    """One row per value of a single example."""
    return Tidy(examples.COLUMNS, [row for result in results for row in examples.examples(result)])


TABLES: dict[str, Callable[[Iterable[Result]], Tidy]] = {
    "experiments": experiments,
    "metrics": metrics,
    "heads": heads,
    "examples": per_example,
}


def kind_of(column: str) -> Kind:
    """What the column holds; all but text may have no value in a row."""
    for kind, columns in _KINDS.items():
        if column in columns:
            return kind
    return "text"


def _experiment(header: ResultHeader) -> tuple:
    job = header.job
    return (
        job.name,
        job.spec.method,
        " ".join(record.name for record in header.models),
        " ".join(record.fingerprint for record in header.models),
        header.data_digest,
        job.seed,
        job.dtype,
        job.engine,
        header.device,
        header.seconds,
        len(header.self_check.checks),
        " ".join(f"{name}={version}" for name, version in header.versions.items()),
        header.identity,
    )
