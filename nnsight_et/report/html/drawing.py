"""A plate -> its panels as SVG, and a legend that holds for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from nnsight_et.display.figures import Bars, Curves, Diagram, Figure, FigureGroup, HeatMap, ImpactPlot, Scatter
from nnsight_et.report.html.diagram import circuit
from nnsight_et.report.html.reading import reading_of
from nnsight_et.report.html.svg import COLOURS, WIDTH, add, bars, curves, heat_map, impact, markup, point, scatter

FITTING = 34  # heads
LARGE = 300_000  # characters: about 2,000 marks
READABLE = 1.3 * WIDTH  # a wider diagram does not shrink with its column


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a name, the class of its swatch, and how it is drawn: bar, curve, point or rule."""

    name: str
    classes: str
    kind: str
    shape: int = 0

    @property
    def point(self) -> Markup:
        """The swatch of a point, or of a curve's line through one."""
        swatch = Element("g")
        if self.kind == "curve":
            add(swatch, "line", x1=-2.0, x2=22.0, y1=6.0, y2=6.0, class_=f"curve l{self.shape % COLOURS}")
        point(swatch, self.shape, 10, 6, f"{self.classes} dot")
        return markup(swatch)


@dataclass(frozen=True)
class Panel:
    """A figure with its title, where there are several, and its size."""

    title: str
    svg: Markup
    width: float
    height: float

    @property
    def large(self) -> bool:
        """Whether it has so much in it that a page should draw it only when it is looked at."""
        return len(self.svg) > LARGE


@dataclass(frozen=True)
class DrawnGroup:
    """A plate as a page shows it."""

    plate: FigureGroup
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    wide: bool
    """Whether a panel needs more than a column's width."""
    reading: str
    """How its figures are read."""


def draw_group(plate: FigureGroup) -> DrawnGroup:
    """The plate's figures; a series has the same colour and shape in all of them."""
    names = [name for panel in plate.panels for name in _names(panel)]
    colours = {name: index for index, name in enumerate(dict.fromkeys(names))}
    panels = tuple(_panel(_title(panel, plate), _svg(panel, colours)) for panel in plate.panels)
    wide = any(map(_is_wide, plate.panels, panels))
    return DrawnGroup(plate, panels, _legend(plate, colours), wide, reading_of(plate.panels[0]))


def _is_wide(figure: Figure, panel: Panel) -> bool:
    if isinstance(figure, ImpactPlot):
        return len(figure.heads) > FITTING
    return isinstance(figure, Diagram) and panel.width > READABLE


def _panel(title: str, svg: Element) -> Panel:
    return Panel(title, markup(svg), float(svg.attrib["width"]), float(svg.attrib["height"]))


def _svg(panel: Figure, colours: dict[str, int]) -> Element:
    if isinstance(panel, HeatMap):
        return heat_map(panel)
    if isinstance(panel, Diagram):
        return circuit(panel)
    draw = {Bars: bars, Curves: curves, Scatter: scatter, ImpactPlot: impact}[type(panel)]
    return draw(panel, colours)


def _names(panel: Figure) -> list[str]:
    """What the panel's colours stand for."""
    if isinstance(panel, (Bars, Curves)):
        return [series.name for series in panel.series]
    if isinstance(panel, Scatter):
        return [name for name, _ in panel.kinds]
    return list(panel.names) if isinstance(panel, ImpactPlot) else []


def _legend(plate: FigureGroup, colours: dict[str, int]) -> tuple[Key, ...]:
    first = type(plate.panels[0])
    kind = {Curves: "curve", Scatter: "point"}.get(first, "bar")
    said = "in {}" if first is ImpactPlot else "{}"  # the circuit whose members are filled
    keys = [Key(said.format(name), f"s{index % COLOURS}", kind, index) for name, index in colours.items()]
    lines = [line.name for panel in plate.panels if isinstance(panel, Bars) for line in panel.lines]
    keys += [Key(name, f"r{index}", "rule") for index, name in enumerate(dict.fromkeys(lines))]
    return tuple(keys) if len(keys) > 1 else ()


def _title(panel: Figure, plate: FigureGroup) -> str:
    """A panel's own title, where there are several."""
    return panel.title.replace("_", " ") if len(plate.panels) > 1 else ""
