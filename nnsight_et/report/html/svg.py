"""SVG as an element tree: text is escaped by construction. A mark has a title; readers go from mark to mark."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

WIDTH = 360.0
LETTER = 5.9  # the mean width of a letter at the size of a label
LINE = 12.0
SHAPES = 5
Value = str | float | None


def drawing(width: float, height: float, label: str, columns: int = 1) -> Element:
    """An empty figure; arrow keys go through its marks, up and down by `columns`."""
    size = {"viewBox": f"0 0 {_plain(width)} {_plain(height)}", "width": _plain(width), "height": _plain(height)}
    return Element("svg", {**size, "role": "group", "aria-label": label, "tabindex": "0", "data-columns": str(columns)})


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: Value) -> Element:
    """A new element in `parent`; `class_` and underscores are spelt as SVG has them, None is left out."""
    spelt = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    made = SubElement(parent, tag, {key: _plain(value) for key, value in spelt.items() if value is not None})
    made.text = text
    return made


def mark(parent: Element, text: str, tag: str = "g", classes: str = "", **attributes: Value) -> Element:
    """A mark: what it says is shown when the pointer or the arrow keys reach it."""
    made = add(parent, tag, class_=f"m {classes}".strip(), **attributes)
    add(made, "title", text)
    return made


def lines_of(text: str, width: float) -> list[str]:
    """A label in lines of about `width`, broken where words end."""
    lines: list[str] = []
    for word in text.replace("_", " ").split(" "):
        if lines and (len(lines[-1]) + 1 + len(word)) * LETTER <= width - 4:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def shortened_text(text: str, room: int) -> str:
    """The text, or the beginning of it, in at most `room` letters."""
    return text if len(text) <= room else f"{text[: room - 1]}…"


def label(parent: Element, text: str, x: float, y: float, width: float) -> None:
    """A label in lines around x, the first one at y."""
    for index, line in enumerate(lines_of(text, width)):
        add(parent, "text", line, x=x, y=y + index * LINE, class_="middle")


def point(parent: Element, shape: int, x: float, y: float, classes: str) -> None:
    """A point in one of SHAPES shapes, so that colour is not all that tells series apart."""
    r = 3.6
    if shape % SHAPES == 0:
        add(parent, "circle", cx=x, cy=y, r=r, class_=classes)
        return
    corners = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -r - 1), (r + 1, r), (-r - 1, r)),
        3: ((0, -r - 1.4), (r + 1.4, 0), (0, r + 1.4), (-r - 1.4, 0)),
        4: ((0, r + 1), (r + 1, -r), (-r - 1, -r)),
    }[shape % SHAPES]
    add(parent, "polygon", points=" ".join(f"{_plain(x + a)},{_plain(y + b)}" for a, b in corners), class_=classes)


def markup(element: Element) -> Markup:
    """The element as text for a page."""
    return Markup(tostring(element, encoding="unicode", short_empty_elements=False))


def _plain(value: Value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
