"""A finished result -> what shows it: tables, figures, rows of long tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nnsight_et.core.errors import ResultError
from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.measurement import TidyRow
from nnsight_et.display.table import Table
from nnsight_et.methods import METHODS
from nnsight_et.methods.base import AnyExperiment, AnyMethod
from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import MethodResult, Result, ResultHeader
from nnsight_et.results.study import Study

T = TypeVar("T")


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The tables of one result; ResultError if its summary is not one its method writes."""
    method = _method(header)
    return _made(header, lambda: method.experiment().tables(header, method.summary.read(header)))


def plates(result: Result, study: Study) -> tuple[FigureGroup, ...]:
    """The figures of one result; ResultError if its summary or scores are not what its method writes."""
    figures = _read(result, lambda one, read: one.figures(read, study))
    return tuple(plate for plate in figures if plate.panels)


def metric_rows(result: Result) -> list[TidyRow]:
    """The values of a whole experiment; ResultError if the result is not one that its method writes."""
    return _read(result, lambda one, read: list(one.metrics(read)))


def head_rows(result: Result) -> list[TidyRow]:
    """The values of an experiment's heads; ResultError if the result is not one that its method writes."""
    return _read(result, lambda one, read: list(one.heads(read)))


def _read(result: Result, show: Callable[[AnyExperiment, MethodResult[Any]], T]) -> T:
    method = _method(result.header)
    return _made(result.header, lambda: show(method.experiment(), result.read(method.summary)))


def _made(header: ResultHeader, show: Callable[[], T]) -> T:
    try:
        return show()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        lacking = f"{type(error).__name__}: {error}"
        raise ResultError(f"{name_of(header)}: its result is not one of {method_of(header)} ({lacking})") from None


def _method(header: ResultHeader) -> AnyMethod:
    method = method_of(header)
    if method not in METHODS:
        raise ResultError(f"{name_of(header)}: no method {method!a}; accepted: {', '.join(METHODS)}")
    return METHODS[method]
