"""Results -> long tables, a measured value per row: what notebooks, plots and comparisons of runs start from.

In files they are CSV, or Parquet with pyarrow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal

from nnsight_et.core.errors import ManifestError
from nnsight_et.display.measurement import COLUMNS
from nnsight_et.report.graph_files import graph_files
from nnsight_et.report.results import head_rows, metric_rows
from nnsight_et.results.disk import write_file
from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import Result, ResultHeader

PER_EXAMPLE = ("per_example", "base", "base_value", "probability", "predicted", "logit", "answer")
EXAMPLE_COLUMNS = ("experiment", "method", "score", "layer", "index", "variant", "example", "value")
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
    """One row per value of a single example: of every tensor [layer, head, example], [variant, example] or [example].

    A variant is one of what was tried, in the order of the result's rows; random draws come after what has a name.
    """
    rows = []
    for result in results:
        experiment, method = name_of(result.header), method_of(result.header)
        for name in sorted(result.scores):
            tensor = result.scores[name]
            if name.rpartition(".")[2] not in PER_EXAMPLE:
                continue
            for place, value in zip(product(*map(range, tensor.shape)), tensor.flatten().tolist(), strict=True):
                axes = (None,) * (3 - tensor.dim()) + place
                where = (*axes[:2], None) if tensor.dim() == 3 else (None, None, axes[1])
                rows.append((experiment, method, name, *where, axes[2], value))
    return Tidy(EXAMPLE_COLUMNS, rows)


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


Format = Literal["csv", "parquet"]


def export(results: Iterable[Result], to: Path, form: Format = "csv", examples: bool = False) -> list[Path]:
    """Write the tables experiments, metrics and heads, and where asked for examples, into the folder `to`.

    Beside them each graph that discovery found, as <experiment>.graph.json and <experiment>.graphml.
    ManifestError if Parquet is asked for and pyarrow is not installed. Earlier files of these names are replaced.
    """
    if form == "parquet" and find_spec("pyarrow") is None:
        raise ManifestError(
            "--format parquet: pyarrow is not installed; accepted: csv, or pip install 'nnsight-et[export]'"
        )
    finished = list(results)
    made = {to / f"{name}.{form}": table(finished) for name, table in TABLES.items() if name != "examples" or examples}
    for path, table in made.items():
        write_file(path, _csv(table) if form == "csv" else _parquet(table))
    graphs = {to / f"{name_of(one.header)}.{end}": text for one in finished for end, text in graph_files(one)}
    for path, text in graphs.items():
        write_file(path, text)
    return [*made, *graphs]


def _csv(table: Tidy) -> bytes:
    """Text in UTF-8; an empty field where there is no value."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue().encode()


def _parquet(table: Tidy) -> bytes:
    import pyarrow
    from pyarrow import parquet

    kinds = {
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "text": pyarrow.string(),
    }
    columns = zip(*table.rows, strict=True) if table.rows else ((),) * len(table.columns)
    arrays = [
        pyarrow.array(values, kinds[kind_of(column)]) for column, values in zip(table.columns, columns, strict=True)
    ]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays, names=list(table.columns)), buffer)
    return buffer.getvalue()
