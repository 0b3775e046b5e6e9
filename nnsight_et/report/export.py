"""Tables of a run as files: CSV as it is, Parquet with pyarrow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from nnsight_et.core.errors import ManifestError
from nnsight_et.report.tidy.tables import TABLES, Tidy, kind_of
from nnsight_et.results.disk import write_file
from nnsight_et.results.store import Result

Format = Literal["csv", "parquet"]


def export(results: Iterable[Result], to: Path, form: Format = "csv", examples: bool = False) -> list[Path]:
    """Write the tables experiments, metrics and heads, and where asked for examples, into the folder `to`.

    ManifestError if Parquet is asked for and pyarrow is not installed. Earlier files of these names are replaced.
    """
    if form == "parquet" and find_spec("pyarrow") is None:
        raise ManifestError("--format parquet: no pyarrow; accepted: csv, or pip install 'nnsight-et[export]'")
    finished = list(results)
    made = {to / f"{name}.{form}": table(finished) for name, table in TABLES.items() if name != "examples" or examples}
    for path, table in made.items():
        write_file(path, _csv(table) if form == "csv" else _parquet(table))
    return list(made)


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
