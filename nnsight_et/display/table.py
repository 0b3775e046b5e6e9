"""A table as text in rows, for any medium."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nnsight_et.core.named_metrics import DEFAULT_METRIC, Metric

if TYPE_CHECKING:  # every command shows tables, and reads no results for `--help`
    from nnsight_et.results.headers import ResultHeader

Row = Mapping[str, Any]
R = TypeVar("R")
Bounds = Sequence[float | None]
FEW = 5  # prompts: with fewer that count, the coverage of a 95% interval is not near enough to 95% (docs/statistics.md)
NEARLY = 0.58
"""Of fewer than FEW right or wrong prompts Wilson's interval goes more than this share of the way to 0 or 1."""
INTERVALS = (
    f"In brackets: 95% intervals over prompts. ~: fewer than {FEW} prompts are right, or wrong, or tell two accuracies "
    "apart; the interval then contains the truth in 90% to 100% of cases instead of 95%."
)


@dataclass(frozen=True)
class Table:
    """A title, columns, and rows of text as long as the columns; `numeric` columns are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    note: str = ""
    """A sentence under the table."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: a row does not have {len(self.columns)} columns")


def number(value: float | None, digits: int = 2) -> str:
    """The number with `digits` decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def table_of(
    header: ResultHeader, title: str, columns: Mapping[str, str | Callable[[R], Any]], rows: Sequence[R], note: str
) -> Table:
    """The table of a result: its experiment and title above, per column a key of the rows or a function of one."""
    cells = tuple(
        tuple(_text(column(row) if callable(column) else cast("Row", row)[column]) for column in columns.values())
        for row in rows
    )
    numeric = {name for index, name in enumerate(columns) if rows and all(_is_number(row[index]) for row in cells)}
    return Table(f"{header.job.name}: {title}", tuple(columns), cells, frozenset(numeric), note)


def several(names: Sequence[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def spread(mean: float | None, std: float | None, bounds: Bounds | None = None) -> str:
    """A mean, its standard deviation, and its interval if there is one; a dash where there is no number."""
    text = _with_bounds(f"{number(mean)} ± {number(std)}" if mean is not None else number(None), bounds)
    return text + ("~" if rests_on_few(mean, bounds) else "")


def bounded(value: Any, bounds: Bounds | None, differing: int | None = None) -> str:
    """A number, with its interval if it has one: 0.67 [0.62, 0.71]; with ~ behind it, if that rests on few prompts.

    `differing`: of two accuracies' ratio or difference, how many prompts tell them apart. Without: an accuracy.
    """
    few = rests_on_few(value, bounds) if differing is None else differing < FEW
    return _with_bounds(_text(value), bounds) + ("~" if few and bounds and None not in bounds else "")


def rests_on_few(accuracy: Any, bounds: Bounds | None) -> bool:
    """Whether fewer than FEW prompts are right, or wrong, by how far the interval goes towards 0 or 1."""
    low, high = bounds or (None, None)
    if not isinstance(accuracy, float) or low is None or high is None:
        return False
    near, bound = (1 - accuracy, 1 - high) if accuracy > 0.5 else (accuracy, low)
    return near - bound > NEARLY * near or near <= 0


def _with_bounds(text: str, bounds: Bounds | None) -> str:
    if bounds is None or None in bounds:
        return text
    return f"{text} [{number(bounds[0])}, {number(bounds[1])}]"


def _text(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "+-–"


def signed_score(value: float, metric: Metric) -> str:
    """A score with its sign: three decimals, or for metrics whose scores can all be small three digits."""
    return f"{value:+.3f}" if metric == DEFAULT_METRIC else f"{value:+.3g}"
