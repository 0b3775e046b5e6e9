"""What a method found: rows of numbers that show themselves, in notebooks as figures and a table, elsewhere as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nnsight_et.core.errors import TaskError, quantity
from nnsight_et.core.notices import Notice
from nnsight_et.core.statistics import accuracy_intervals
from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Line, Series
from nnsight_et.display.marks import BARS, value_mark
from nnsight_et.display.table import Table, number
from nnsight_et.report.html.figure_files import FORMATS, figure_files
from nnsight_et.report.html.notebook import notebook_html
from nnsight_et.report.results import plates, tables
from nnsight_et.results.disk import write_file
from nnsight_et.results.headers import name_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study

if TYPE_CHECKING:
    from pandas import DataFrame

SEED = 0  # of resamples: the same numbers give the same stability
LISTED = 15  # rows
TEXTS = ("csv", "html")
"""Files of a whole finding, beside those of its figures."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """The numbers of one measurement. rows: one mapping each, where `<key>_interval` is the 95% interval of `<key>`.

    scores: everything that was measured, as tensors by name, [..., example].
    """

    title: str
    rows: tuple[Row, ...]
    figures: tuple[FigureGroup, ...] = field(default=(), repr=False)
    note: str = ""
    scores: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    notices: tuple[Notice, ...] = ()
    """What to know before the numbers are read."""
    self_check: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Whether it was "on", its "seconds", and its "checks": of each its name, worst difference and tolerance."""

    @property
    def checked(self) -> str:
        """How many self-checks passed, in a sentence; empty where nothing was measured."""
        if not self.self_check:
            return ""
        if not self.self_check["on"]:
            return "Self-check off."
        return f"{quantity(len(self.self_check['checks']), 'self-check')} passed."

    @property
    def table(self) -> Table:
        """The rows as text, with intervals in brackets after their numbers."""
        keys = [key for key in dict.fromkeys(key for row in self.rows for key in row) if not key.endswith("_interval")]
        rows = tuple(tuple(_text(row, key) for key in keys) for row in self.rows[:LISTED])
        numeric = frozenset(key for key in keys if not isinstance(self.rows[0].get(key), str))
        more = f"{len(self.rows) - LISTED} more rows in .rows and .to_dataframe(). " if len(self.rows) > LISTED else ""
        note = " ".join(filter(None, (more + self.note, self.checked)))
        return Table(self.title, tuple(key.replace("_", " ") for key in keys), rows, _words(numeric), note)

    def to_dataframe(self) -> DataFrame:
        """The rows as a pandas DataFrame, with two columns per interval."""
        try:
            import pandas
        except ImportError as error:
            error.add_note("DataFrames need pandas: pip install 'nnsight-et[export]'")
            raise
        return pandas.DataFrame.from_records([_flat(row) for row in self.rows])

    def save(self, path: str | Path) -> list[Path]:
        """Write it in the format of the file extension of `path`; return the files written.

        .svg, .pdf or .png: its figures. If there are several, each file name ends in its figure's name. PDF and PNG
        need the extra `figures`. .html: figures and table as one page. .csv: the rows, with two columns per interval.
        TaskError for another extension, or if it has no figures.

        >>> from tempfile import TemporaryDirectory
        >>> from nnsight_et.display.figures import Bars, DataPoint, FigureGroup, Series
        >>> bars = Bars("", ("circuit",), (Series("accuracy", (DataPoint(0.5, None, "0.5"),)),), "accuracy")
        >>> with TemporaryDirectory() as folder:
        ...     [written] = Finding("accuracy", (), (FigureGroup("accuracy", "", "", (bars,)),)).save(f"{folder}/a.svg")
        ...     written.name, written.read_text()[:4]
        ('a.svg', '<svg')
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".")
        if kind not in (*FORMATS, *TEXTS):
            raise TaskError(
                f"path: {str(path)!r}; accepted: a name that ends in .{', .'.join(sorted((*FORMATS, *TEXTS)))}"
            )
        if kind in TEXTS:
            write_file(path, (self._csv() if kind == "csv" else self._page()).encode())
            return [path]
        if not self.figures:
            raise TaskError(
                f"{self.title}: there is no figure; its numbers are in .rows, and .save('a.csv') writes them"
            )
        written = []
        for figure in self.figures:
            target = path if len(self.figures) == 1 else path.with_stem(f"{path.stem}-{figure.name}")
            (content,) = figure_files(figure, (kind,)).values()
            write_file(target, content)
            written.append(target)
        return written

    def _csv(self) -> str:
        rows, text = [_flat(row) for row in self.rows], io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _page(self) -> str:
        return f'<!doctype html><meta charset="utf-8"><title>{escape(self.title)}</title>{self._repr_html_()}\n'

    def __repr__(self) -> str:
        table = self.table
        lines = [table.columns, *table.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
        aligned = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        below = [*([table.note] if table.note else []), *map(str, self.notices)]
        return "\n".join([table.title, *(line.rstrip() for line in aligned), *below])

    def _repr_html_(self) -> str:
        return notebook_html(self.figures, [self.table], self.notices)


def finding_of(result: Result, rows: Sequence[Row]) -> dict[str, Any]:
    """What a Finding has of a result whose table these rows are: all its fields."""
    (table,) = tables(result.header)
    title = table.title.removeprefix(f"{name_of(result.header)}: ")
    return {
        "title": title,
        "rows": tuple(rows),
        "figures": plates(result, Study("notebook", (result,), ())),
        "note": table.note,
        "scores": result.scores,
        "notices": result.header.notices,
        "self_check": result.header.self_check.to_dict(),
    }


def unprefixed(scores: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The scores, those with this prefix without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in scores.items()}


def accuracy_with_interval(right: Tensor) -> dict[str, Any]:
    """Accuracy and its interval of right [example]: a part of a row."""
    return {"accuracy": right.double().mean().item(), "accuracy_interval": accuracy_intervals(right)}


def accuracy_bars(name: str, title: str, rows: Sequence[Row], category: str, lines: Sequence[Row] = ()) -> FigureGroup:
    """Bars of the rows' accuracies, and dashed lines of others'."""
    marks: list[DataPoint | None] = [
        value_mark(row["accuracy"], row.get("accuracy_interval"), str(row[category])) for row in rows
    ]
    dashed = [
        Line(str(row[category]), row["accuracy"], f"{row[category]}: {number(row['accuracy'], 3)}") for row in lines
    ]
    panel = Bars(
        title, tuple(str(row[category]) for row in rows), (Series("accuracy", tuple(marks)),), "accuracy", tuple(dashed)
    )
    return FigureGroup(name, title, BARS, (panel,))


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if isinstance(value, float):
        bounds = row.get(f"{key}_interval")
        small = "p" in key.split("_") and 0 < value < 0.001
        text = f"{value:.1e}" if small else number(value, 3)
        if bounds and not any(map(math.isnan, bounds)):  # a single prompt has no interval
            text += f" [{number(bounds[0], 3)}, {number(bounds[1], 3)}]"
        return text
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)


def _words(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name.replace("_", " ") for name in names)


def _flat(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("_interval"):
            stem = key.removesuffix("_interval")
            plain |= {f"{stem}_low": value[0] if value else None, f"{stem}_high": value[1] if value else None}
        else:
            plain[key] = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return plain
