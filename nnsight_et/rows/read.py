"""Files of data as rows: tables (.csv, .tsv), JSON in one document or a line a row, Parquet, Hugging Face datasets.

A file's text stays as it is until its rows are taken from it; what is no text becomes JSON lines.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

from nnsight_et.core.errors import ManifestError, TaskError, accepted_names, quantity

Form = Literal["json", "commas", "tabs", "rows"]
"""JSON (lines, or a document), a table with commas or semicolons, one with tabs, JSON lines made of something else."""
FORMS: dict[str, Form] = {".csv": "commas", ".tsv": "tabs", ".tab": "tabs"}
PARQUET = (".parquet", ".pq")
FILE_LIMIT = 1 << 26  # bytes
ROWS_LIMIT = 100_000  # of a dataset
TOLD = 20  # mistakes in one message
PLACE = re.compile(r"^.*?:(?: row )?(\d+): ")
"""Where a row is: a mistake that many rows share is reported once."""
KINDS = "a file of JSON lines, JSON, CSV, TSV or Parquet"
_OBJECT = "rows as objects: one a line, a list of them, or one object with a list of them"

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Data:
    """A file or dataset as it was read."""

    name: str
    text: str
    form: Form = "json"
    digest: str | None = None
    """Of the file's bytes, where its text was made from something else."""


@dataclass(frozen=True)
class Row:
    """One row: where it is, such as x.csv:3 or x.json: row 2, and its values by column."""

    where: str
    fields: dict[str, Any]


def read_file(path: Path) -> Data:
    """The file; ManifestError naming it if it cannot be read."""
    shown, accept = ascii(str(path))[1:-1], f"accepted: {KINDS}"
    try:
        if path.exists() and not path.is_file():
            raise ManifestError(f"{shown}: cannot be read: it is not a file; {accept}")
        if path.is_file() and path.stat().st_size > FILE_LIMIT:
            raise ManifestError(f"{shown} has {path.stat().st_size} bytes; accepted: at most {FILE_LIMIT}")
        if path.suffix.lower() in PARQUET:
            content = path.read_bytes()
            rows = _parquet_rows(path, shown)
            return Data(path.name, _json_lines(rows), "rows", blake2b(content, digest_size=10).hexdigest())
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"it is not text in UTF-8 (byte {error.start})"
        raise ManifestError(f"{shown}: cannot be read: {found}; {accept}") from None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a name no file can have; RuntimeError: no home
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{shown}: cannot be read ({reason}); {accept}") from None
    return Data(path.name, text, FORMS.get(path.suffix.lower(), "json"))


def read_dataset(place: str, folder: Path, name: str | None, split: str, revision: str | None) -> Data:
    """A split of the Hugging Face dataset in a folder, in `folder` or anywhere, or with that hub id.

    ManifestError if there is none, or none that can be read.
    """
    try:
        import datasets  # type: ignore[import-not-found]
    except ImportError:
        found = "reading a dataset needs the package datasets"
        raise ManifestError(f"{found}; accepted: pip install 'nnsight-et[datasets]', or its rows as a file") from None
    datasets.disable_progress_bars()
    beside = folder / Path(place).expanduser()
    try:
        if beside.is_dir() and any((beside / file).exists() for file in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(beside))
            splits = loaded if isinstance(loaded, dict) else {split: loaded}
            if split not in splits:
                raise ManifestError(f"{place}: no split {split!a}; {accepted_names(split, map(str, splits))}")
            rows = splits[split]
        else:
            source = str(beside) if beside.is_dir() else place
            rows = datasets.load_dataset(source, name, split=split, revision=revision)
    except ManifestError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its builders and the hub's client raise
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        accept = "the hub id of a dataset, or its folder, and one of its splits"
        raise ManifestError(
            f"{place}: no split {split!a} of a dataset can be read ({found}); accepted: {accept}"
        ) from None
    if len(rows) > ROWS_LIMIT:
        raise ManifestError(f"{place}: {len(rows)} rows; accepted: at most {ROWS_LIMIT}, such as split: {split}[:1000]")
    return Data(f"{place}[{split}]", _json_lines(rows.to_list()), "rows")


def rows_of(data: Data, key: str | None = None) -> list[Row]:
    """The rows; TaskError with a line for each that is none. key: of a JSON object, which of its lists has them."""
    if data.form in ("commas", "tabs"):
        rows = list(_table_rows(data))
    elif data.form == "rows":
        rows = [Row(f"{data.name}: row {number}", json.loads(line)) for number, line in _lines(data.text)]
    else:
        rows = _json_rows(data, key)
    if not rows:
        raise TaskError(f"{data.name}: no pairs; accepted: one or more rows")
    return rows


def each_of(some: Iterable[T], make: Callable[[T], U]) -> list[U]:
    """What `make` makes of each; TaskError with a line for each that it refuses, and one for all with one mistake."""
    made, refused = list[U](), dict[str, list[str]]()
    for one in some:
        try:
            made.append(make(one))
        except TaskError as error:
            refused.setdefault(error.alike or PLACE.sub("", str(error)), []).append(str(error))
    if refused:
        lines = [one + _others(more) for one, *more in refused.values()]
        left = sum(map(len, list(refused.values())[TOLD:]))
        raise TaskError("\n".join([*lines[:TOLD], *([f"and {quantity(left, 'more row')}"] if left else ())]))
    return made


def _others(more: Sequence[str]) -> str:
    """In how many more rows there is the same mistake, and in which first."""
    places = [place[1] for one in more[:5] if (place := PLACE.match(one))]
    if not more:
        return ""
    return f" (also in {quantity(len(more), 'more row')}: {', '.join(places)}{', ...' if len(more) > 5 else ''})"


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _table_rows(data: Data) -> Iterator[Row]:
    """The rows of a table, each at the line where it begins, by the names in its first row."""
    first = data.text.split("\n", 1)[0]
    commas = ";" if ";" in first and "," not in first else ","
    cells = csv.reader(
        io.StringIO(data.text, newline=""), delimiter="\t" if data.form == "tabs" else commas, strict=True
    )
    columns, begin = None, 1
    try:
        for values in cells:
            line, begin = begin, cells.line_num + 1
            if not values:
                continue
            if columns is None:
                columns = _column_names(values, f"{data.name}:{line}")
                continue
            if len(values) != len(columns):
                found = f"{quantity(len(values), 'cell')}, but the columns are {', '.join(columns)}"
                raise TaskError(
                    f"{data.name}:{line}: {found}; accepted: one cell per column, in quotes if it has a comma"
                )
            yield Row(f"{data.name}:{line}", {name: cell for name, cell in zip(columns, values, strict=True) if name})
    except csv.Error as error:
        raise TaskError(
            f"{data.name}:{cells.line_num}: not a table ({error}); accepted: cells separated by commas, or in quotes"
        ) from None


def _column_names(values: list[str], where: str) -> list[str]:
    names = [name.strip() for name in values]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            raise TaskError(f"{where}: the column {name!r} appears twice; accepted: each name once")
    return names


def _json_rows(data: Data, key: str | None) -> list[Row]:
    """The objects that a text is, one a line; or those in the one list of a document."""
    lines = _lines(data.text)
    whole = _document(data.text, lines[0][1]) if lines else None
    if whole is None and key is None:
        return each_of(lines, lambda line: _object(data, *line))
    rows = _list_in(whole, key, data.name)
    return each_of(enumerate(rows, start=1), lambda one: _row(one[1], f"{data.name}: row {one[0]}"))


def _document(text: str, first: str) -> Any:
    """The JSON document that a text is; None if it is objects, one a line."""
    try:
        if isinstance(json.loads(first), dict) and len(_lines(text)) > 1:
            return None
    except (ValueError, RecursionError):  # ValueError: also a number of too many digits
        pass
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    has_list = isinstance(whole, list) or any(
        map(_is_list_of_objects, whole.values() if isinstance(whole, dict) else ())
    )
    return whole if has_list or len(_lines(text)) > 1 else None


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _list_in(whole: Any, key: str | None, name: str) -> list[Any]:
    """The rows of a document: itself, or the list in it, called `key` or the only one of objects."""
    if isinstance(whole, list) and key is None:
        return whole
    if not isinstance(whole, dict):
        found = "not a JSON document" if whole is None else content(whole)
        raise TaskError(f"{name}: {found}; accepted: {'an object with a list ' + repr(key) if key else _OBJECT}")
    lists = [one for one, value in whole.items() if _is_list_of_objects(value)]
    if key is not None:
        if key not in lists:
            raise TaskError(f"{name}: rows: no list of objects {key!r}; {accepted_names(key, lists)}")
        return whole[key]
    if len(lists) == 1:
        return whole[lists[0]]
    if not lists:
        raise TaskError(f"{name}: {content(whole)}, none with a list of objects; accepted: {_OBJECT}")
    raise TaskError(
        f"{name}: lists of objects under {', '.join(lists)}; accepted: rows: {' or '.join(lists)} in the task"
    )


def _object(data: Data, number: int, line: str) -> Row:
    where = f"{data.name}:{number}"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        table = _table_header(line) if number == _lines(data.text)[0][0] else ""
        raise TaskError(f"{where}: {table or f'not JSON ({error})'}; accepted: {_OBJECT}") from None
    return _row(found, where)


def _table_header(first: str) -> str:
    """What a line is that looks like the first one of a table; "" for others."""
    columns = [column.strip() for column in re.split(r"[,\t;]", first)]
    named = len(columns) > 1 and all(re.fullmatch(r"\"?[A-Za-z_][\w-]*\"?", column) for column in columns)
    return f"a table with the columns {', '.join(columns)}, in a file that is not called .csv or .tsv" if named else ""


def _row(found: object, where: str) -> Row:
    if not isinstance(found, dict):
        raise TaskError(f"{where}: {content(found)}; accepted: {_OBJECT}")
    return Row(where, found)


def content(whole: object) -> str:
    """What a JSON value is, in a few words."""
    if isinstance(whole, dict):
        return f"an object with the keys {', '.join(map(ascii, whole))}"
    return "not an object" + (f" but a list of {len(whole)}" if isinstance(whole, list) else "")


def _parquet_rows(path: Path, shown: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file, by pyarrow or pandas, whichever is there."""
    try:
        try:
            from pyarrow import parquet

            return parquet.read_table(path).to_pylist()
        except ModuleNotFoundError:
            from pandas import read_parquet

            return read_parquet(path).to_dict("records")
    except ImportError:  # of pandas, or of what it reads Parquet with
        found = "Parquet needs the package pyarrow, or pandas with fastparquet"
        accept = "pip install 'nnsight-et[export]', or a CSV file"
    except (OSError, ValueError) as error:
        found, accept = f"cannot be read ({' '.join(str(error).split())[:200]})", "a Parquet file"
    raise ManifestError(f"{shown}: {found}; accepted: {accept}")


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False, default=_plain) for row in rows)


def _plain(value: Any) -> Any:
    """An array as a list, a number of numpy as one of Python; anything else, such as a date, as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
