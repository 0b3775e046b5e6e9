"""The colours of figures as style rules, one set per colour scheme: --s0, ... for series, d0 to d20 and q0 to q10."""

from __future__ import annotations

from nnsight_et.report import colours
from nnsight_et.report.colours import Stops, between
from nnsight_et.report.html.maps import SIGNED, UNSIGNED


def rules() -> str:
    """Rules for light paper, and for screens that prefer dark."""
    light = _scheme(colours.SERIES, *colours.SCORES)
    dark = _scheme(colours.SERIES_ON_DARK, *colours.SCORES_ON_DARK)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n"


def light(scope: str) -> str:
    """The rules for light paper, below the elements that `scope` selects."""
    return _scheme(colours.SERIES, *colours.SCORES).replace(":root", "&").join((f"{scope} {{ ", " }"))


def _scheme(series: Stops, below: Stops, above: Stops) -> str:
    names = "".join(f"--s{index}:{colour};" for index, colour in enumerate(series))
    signed = [between(below, step / SIGNED) for step in range(SIGNED)]
    signed += [between(above, step / SIGNED) for step in range(SIGNED + 1)]
    shares = [between(below[::-1], step / UNSIGNED) for step in range(UNSIGNED + 1)]
    fills = [f".d{step}{{fill:{colour}}}" for step, colour in enumerate(signed)]
    fills += [f".q{step}{{fill:{colour}}}" for step, colour in enumerate(shares)]
    return f":root{{{names}}}{''.join(fills)}"
