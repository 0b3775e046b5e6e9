"""Figures and tables as a notebook shows them: HTML whose styles reach nothing else on its page. No script."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from nnsight_et.core.notices import Notice
from nnsight_et.display.figures import FigureGroup
from nnsight_et.display.table import Table
from nnsight_et.report.html import palette
from nnsight_et.report.html.drawing import draw_group
from nnsight_et.report.html.parts import template, text_of

CLASS = "nnsight-et"


def notebook_html(plates: Sequence[FigureGroup], tables: Sequence[Table], notices: Sequence[Notice] = ()) -> str:
    """What is to be known first, the figures, then the tables, untitled where a figure has the title.

    Marks say their numbers when pointed at.
    """
    rules = f".{CLASS} {{ {text_of('figures.css')} }} {palette.light(f'.{CLASS}')}"
    style = text_of("notebook.css") + rules if plates else text_of("notebook.css")
    return template("notebook.html.j2").render(
        name=CLASS,
        style=Markup(style),
        notices=notices,
        plates=[draw_group(plate) for plate in plates],
        tables=tables,
        titles={plate.title for plate in plates},
    )
