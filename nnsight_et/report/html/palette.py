"""The colours of figures, and style rules of them: --paper, ..., --s0, ... by name, d0 to d40 and q0 to q20 for scores.

They are told apart in every common kind of colour blindness, on light and on dark paper.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnsight_et.report.html.parts import text_of
from nnsight_et.report.html.svg import SIGNED, UNSIGNED

Stops = tuple[str, ...]


@dataclass(frozen=True)
class Palette:
    """The colours on one kind of paper, #rrggbb."""

    named: dict[str, str]
    """The paper, boxes on it, letters and axes, fainter ones, and lines."""
    series: Stops
    """Series, in order (Okabe and Ito 2008)."""
    scores: tuple[Stops, Stops]
    """From the most negative, blue, to 0, and from 0 to the most positive, orange. Shares: from 0 to blue."""

    @property
    def names(self) -> dict[str, str]:
        """All but those of scores, by the names that style sheets use."""
        return self.named | {f"s{index}": colour for index, colour in enumerate(self.series)}


LIGHT = Palette(
    {"paper": "#ffffff", "sheet": "#f6f7f8", "ink": "#1b1f24", "soft": "#57606a", "line": "#d7dce1"},
    ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"),
    (("#0b3c7d", "#5b9bd5", "#f4f4f2"), ("#f4f4f2", "#f0a254", "#8c3a00")),
)
DARK = Palette(
    {"paper": "#14171b", "sheet": "#1d2127", "ink": "#e8eaed", "soft": "#a3acb7", "line": "#373e47"},
    ("#4aa8e0", "#f0b434", "#2fc79a", "#e39bc4", "#ff8a4c", "#a8dcff"),
    (("#a9d3ff", "#3f83c4", "#23282f"), ("#23282f", "#b8651b", "#ffcf94")),
)


def between(stops: Stops, share: float) -> str:
    """The colour at a share of the way along the stops."""
    place = share * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    ends = [[int(stop[index : index + 2], 16) for index in (1, 3, 5)] for stop in stops[first : first + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (place - first)):02x}" for a, b in zip(*ends, strict=True))


def rules() -> str:
    """Rules for light paper, and for screens that prefer dark."""
    return f"{_scheme(LIGHT)}\n@media screen and (prefers-color-scheme: dark) {{ {_scheme(DARK)} }}\n"


def light(scope: str) -> str:
    """The rules for light paper, below the elements that `scope` selects."""
    return f"{scope} {{ {_scheme(LIGHT, '&')} }}"


def on_paper() -> str:
    """The style of figures on light paper, every colour spelt out: programs that draw SVG know no variables."""
    return re.sub(r"var\(--(\w+)\)", lambda name: LIGHT.names[name[1]], text_of("figures.css")) + _fills(LIGHT)


def _scheme(palette: Palette, root: str = ":root") -> str:
    names = "".join(f"--{name}:{colour};" for name, colour in palette.names.items())
    return f"{root}{{{names}}}{_fills(palette)}"


def _fills(palette: Palette) -> str:
    below, above = palette.scores
    signed = [between(below, step / SIGNED) for step in range(SIGNED)]
    signed += [between(above, step / SIGNED) for step in range(SIGNED + 1)]
    shares = [between(below[::-1], step / UNSIGNED) for step in range(UNSIGNED + 1)]
    fills = [f".d{step}{{fill:{colour}}}" for step, colour in enumerate(signed)]
    fills += [f".q{step}{{fill:{colour}}}" for step, colour in enumerate(shares)]
    return "".join(fills)
