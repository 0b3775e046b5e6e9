"""The files that pages are made of: templates, styles, the script."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

ROOM = Environment(
    loader=PackageLoader("nnsight_et.report.html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def template(name: str) -> Template:
    """The template of that name; what it is filled with is escaped."""
    return ROOM.get_template(name)


def text_of(name: str) -> str:
    """The text of one of the files."""
    return files("nnsight_et.report.html").joinpath("templates", name).read_text(encoding="utf-8")
