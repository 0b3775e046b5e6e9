"""A table as text in rows, for any medium."""

from __future__ import annotations

from dataclasses import dataclass


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
