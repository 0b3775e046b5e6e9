"""The colours of figures as style rules: --paper, ..., --s0, ... by name, and d0 to d40 and q0 to q20 for scores."""

from __future__ import annotations

import re

from nnsight_et.report.colours import DARK, LIGHT, Palette, between
from nnsight_et.report.html.maps import SIGNED, UNSIGNED
from nnsight_et.report.html.parts import text_of


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
