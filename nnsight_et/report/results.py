"""A finished result -> what shows it: tables, figures, rows of long tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nnsight_et.core.errors import ResultError
from nnsight_et.display.figures import Plate
from nnsight_et.display.measurement import Measurement
from nnsight_et.display.table import Table
from nnsight_et.methods import METHODS
from nnsight_et.methods.base import AnyExperiment
from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import Result, ResultHeader
from nnsight_et.results.study import Study

T = TypeVar("T")


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The tables of one result; ResultError if its summary is not one its method writes."""
    return _read(header, lambda one: one.tables(header))


def plates(result: Result, study: Study) -> tuple[Plate, ...]:
    """The figures of one result; ResultError if its summary or scores are not what its method writes."""
    return _read(result.header, lambda one: tuple(plate for plate in one.figures(result, study) if plate.panels))


def metric_rows(result: Result) -> list[Measurement]:
    """The values of a whole experiment; ResultError if the result is not one that its method writes."""
    return _read(result.header, lambda one: list(one.metrics(result)))


def head_rows(result: Result) -> list[Measurement]:
    """The values of an experiment's heads; ResultError if the result is not one that its method writes."""
    return _read(result.header, lambda one: list(one.heads(result)))


def _read(header: ResultHeader, read: Callable[[AnyExperiment], T]) -> T:
    method, name = method_of(header), name_of(header)
    if method not in METHODS:
        raise ResultError(f"{name}: no method {method!a}; accepted: {', '.join(METHODS)}")
    try:
        return read(METHODS[method].experiment())
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        lacking = f"{type(error).__name__}: {error}"
        raise ResultError(f"{name}: its result is not one of {method} ({lacking})") from None
