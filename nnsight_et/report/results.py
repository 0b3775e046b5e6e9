"""A finished result -> the tables that show it."""

from __future__ import annotations

from collections.abc import Callable

from nnsight_et.core.errors import ResultError
from nnsight_et.display.table import Table
from nnsight_et.report import methods, path_patching
from nnsight_et.results.headers import ResultHeader, name_of

TABLES: dict[str, Callable[[ResultHeader], tuple[Table, ...]]] = {
    "path_patching": path_patching.path_patching,
    "faithfulness": methods.faithfulness,
    "minimality": methods.minimality,
    "completeness": methods.completeness,
    "comparison": methods.comparison,
    "dcm": methods.dcm,
    "activation_patching": methods.activation_patching,
    "cmap": methods.cmap,
    "knockout": methods.knockout,
    "attention_patterns": methods.attention_patterns,
    "attribution": methods.attribution,
}


def tables(header: ResultHeader) -> tuple[Table, ...]:
    """The tables of one result; ResultError if its summary is not one its method writes."""
    method = str(header.job.get("spec", {}).get("method"))
    if method not in TABLES:
        raise ResultError(f"{name_of(header)}: no method {method!a}; accepted: {', '.join(TABLES)}")
    try:
        return TABLES[method](header)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        lacking = f"{type(error).__name__}: {error}"
        raise ResultError(f"{name_of(header)}: its summary is not one of {method} ({lacking})") from None
