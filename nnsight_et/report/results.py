"""A finished result -> what shows it: tables, figures, rows of long tables."""

from __future__ import annotations

from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.measurement import TidyRow
from nnsight_et.display.table import Table
from nnsight_et.methods import METHODS
from nnsight_et.results.headers import method_of
from nnsight_et.results.store import Result, ResultHeader
from nnsight_et.results.study import Study


def headline(header: ResultHeader) -> str:
    """A result in a few words; ResultError naming the key if its summary is not one its method writes."""
    method = METHODS[method_of(header)]
    return method.experiment().headline(method.summary.read(header))


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The tables of one result; ResultError naming the key if its summary is not one its method writes."""
    method = METHODS[method_of(header)]
    return method.experiment().tables(header, method.summary.read(header))


def plates(result: Result, study: Study) -> tuple[FigureGroup, ...]:
    """The figures of one result; ResultError if its summary or scores are not what its method writes."""
    method = METHODS[method_of(result.header)]
    figures = method.experiment().figures(result.read(method.summary), study)
    return tuple(plate for plate in figures if plate.panels)


def metric_rows(result: Result) -> list[TidyRow]:
    """The values of a whole experiment; ResultError if the result is not one that its method writes."""
    method = METHODS[method_of(result.header)]
    return list(method.experiment().metrics(result.read(method.summary)))


def head_rows(result: Result) -> list[TidyRow]:
    """The values of an experiment's heads; ResultError if the result is not one that its method writes."""
    method = METHODS[method_of(result.header)]
    return list(method.experiment().heads(result.read(method.summary)))
