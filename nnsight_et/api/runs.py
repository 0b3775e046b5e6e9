"""Finished runs in Python: `open_run("runs/my-study/0123...")["circuit"].to_dataframe("heads")`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from nnsight_et.core.circuit import Circuit
from nnsight_et.core.errors import ManifestError, ResultError, accepted_names, brief
from nnsight_et.core.notices import Notice
from nnsight_et.display.table import Table
from nnsight_et.report.export import TABLES, kind_of
from nnsight_et.report.html.notebook import notebook_html
from nnsight_et.report.html.page import limits, tiles
from nnsight_et.report.results import plates, tables
from nnsight_et.results.headers import method_of, models_of, name_of
from nnsight_et.results.store import HEADER, Result, ResultHeader, read_result
from nnsight_et.results.study import Study, study_in
from nnsight_et.results.summary import circuit_in

if TYPE_CHECKING:
    from pandas import DataFrame

TidyName = Literal["experiments", "metrics", "heads", "examples"]


@dataclass(frozen=True)
class ExperimentResult:
    """One finished experiment."""

    result: Result
    study: Study
    """The run it is of."""

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return name_of(self.result.header)

    @property
    def method(self) -> str:
        """Its method, such as path_patching."""
        return method_of(self.result.header)

    @property
    def header(self) -> ResultHeader:
        """How it was made: what result.json holds."""
        return self.result.header

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What to know before its numbers are read."""
        return self.header.notices

    @property
    def summary(self) -> dict[str, Any]:
        """Its headline numbers."""
        return self.result.header.summary

    @property
    def scores(self) -> dict[str, Tensor]:
        """Every score of every head and example, by name."""
        return self.result.scores

    @property
    def circuit(self) -> Circuit:
        """The circuit it found or used; ResultError if it has none."""
        found = circuit_in(self.header)
        if found is None:
            raise ResultError(f"{self.name}: {self.method} has no circuit of its own")
        return found

    def to_dataframe(self, table: TidyName = "metrics") -> DataFrame:
        """A long table of it as a pandas DataFrame: metrics, heads, examples or experiments."""
        return _dataframe([self.result], table)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.method} on {models_of(self.header) or 'no model'}>"

    def _repr_html_(self) -> str:
        """Its figures and tables, as notebooks show them."""
        return notebook_html(plates(self.result, self.study), tables(self.header), self.notices)


@dataclass(frozen=True)
class Run:
    """The finished experiments of one run's folder; `run["circuit"]` is one of them."""

    folder: Path
    study: Study

    @cached_property
    def experiments(self) -> tuple[str, ...]:
        """Their names, each after those it needs."""
        return tuple(name_of(result.header) for result in self.study.results)

    def __getitem__(self, name: str) -> ExperimentResult:
        result = self.study.result(name)
        if result is None:
            raise KeyError(f"no result named {name!r}; {accepted_names(name, self.experiments)}")
        return ExperimentResult(result, self.study)

    def __iter__(self) -> Iterator[str]:
        return iter(self.experiments)

    def __len__(self) -> int:
        return len(self.experiments)

    def to_dataframe(self, table: TidyName = "metrics") -> DataFrame:
        """A long table of all its experiments as a pandas DataFrame: metrics, heads, examples or experiments."""
        return _dataframe(self.study.results, table)

    def __repr__(self) -> str:
        return f"<run of {self.study.name}: {', '.join(self.experiments)}>"

    def _repr_html_(self) -> str:
        """What limits it, its headline numbers and its experiments, as notebooks show them."""
        rows = tuple(
            (name_of(result.header), method_of(result.header), models_of(result.header))
            for result in self.study.results
        )
        headline = tuple((tile.value, tile.name, tile.more) for tile in tiles(self.study))
        known = "\n".join(limit.text for limit in limits(self.study, 0))
        return notebook_html(
            (),
            [
                Table(f"run of {self.study.name}", ("", "", ""), headline, note=known),
                Table(
                    "experiments", ("experiment", "method", "models"), rows, note=f'{self.folder}; run["name"] is one'
                ),
            ],
        )


def open_run(folder: str | Path) -> Run:
    """Open a finished run: its results by the names of its experiments.

    Args:
        folder: The folder that `et run` names at its end, or the folder of one result in it.

    Returns:
        A Run. `run["table1"]` is a result: its `.summary`, `.scores` (tensors by name), `.circuit` and `.notices`.
        `run.to_dataframe("metrics")` is a long table of all experiments.

    Raises:
        ManifestError: There is no result.
        ResultError: None of the results can be read.

    Examples:
        >>> import nnsight_et as et
        >>> et.open_run("nowhere")
        Traceback (most recent call last):
        nnsight_et.core.errors.ManifestError: nowhere: no result here; accepted: ...
    """
    if not isinstance(folder, (str, Path)):
        raise ManifestError(f"folder: {brief(folder)}; accepted: the folder that `et run` names at its end")
    folder = Path(folder)
    if (folder / HEADER).exists():
        result = read_result(folder)
        return Run(folder, Study(name_of(result.header), (result,), ()))
    if not any(folder.glob(f"*/{HEADER}")):
        below = sorted({str(path.parent.parent) for path in folder.glob(f"*/*/{HEADER}")})
        known = ", ".join(below) or "the folder that `et run` names at its end, or one experiment's in it"
        raise ManifestError(f"{folder}: no result here; accepted: {known}")
    return Run(folder, study_in(folder))


def _dataframe(results: Iterable[Result], table: str) -> DataFrame:
    if table not in TABLES:
        raise ValueError(f"no table {table!r}; {accepted_names(table, TABLES)}")
    try:
        import pandas
    except ImportError as error:
        error.add_note("DataFrames need pandas: pip install 'nnsight-et[export]'")
        raise
    tidy = TABLES[table](results)
    frame = pandas.DataFrame.from_records(tidy.rows, columns=list(tidy.columns))
    kinds = {"integer": "Int64", "number": "float64", "truth": "boolean", "text": "str"}
    return frame.astype({column: kinds[kind_of(column)] for column in tidy.columns})
