"""The colours of figures: told apart in every common kind of colour blindness, on light and on dark paper."""

from __future__ import annotations

Stops = tuple[str, ...]

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Series, in order (Okabe and Ito 2008)."""
SERIES_ON_DARK = ("#4aa8e0", "#f0b434", "#2fc79a", "#e39bc4", "#ff8a4c", "#a8dcff")
SCORES: tuple[Stops, Stops] = (("#0b3c7d", "#5b9bd5", "#f4f4f2"), ("#f4f4f2", "#f0a254", "#8c3a00"))
"""Scores: from the most negative, blue, to 0, and from 0 to the most positive, orange. Shares: from 0 to blue."""
SCORES_ON_DARK: tuple[Stops, Stops] = (("#a9d3ff", "#3f83c4", "#23282f"), ("#23282f", "#b8651b", "#ffcf94"))


def between(stops: Stops, share: float) -> str:
    """The colour at a share of the way along the stops, #rrggbb."""
    place = share * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    ends = [[int(stop[index : index + 2], 16) for index in (1, 3, 5)] for stop in stops[first : first + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (place - first)):02x}" for a, b in zip(*ends, strict=True))
