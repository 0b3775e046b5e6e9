"""Our numbers under the names that the paper's tables and figures have for them."""

from __future__ import annotations

from collections.abc import Iterator

PaperNumbers = Iterator[tuple[tuple[str, str], float | None]]
"""(row, column) as the published numbers have them -> our value."""


def paper_name(model: str) -> str:
    """The paper's name of a model, or of the one an embedded model stands in for."""
    return model.removesuffix("-tiny")
