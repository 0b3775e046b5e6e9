"""The figures of a circuit: its diagram as in Figure 1, and every stage's scores as a map over layers and heads."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from nnsight_et.core.errors import quantity
from nnsight_et.core.named_metrics import DEFAULT_METRIC, METRICS, Metric
from nnsight_et.display.figures import Arrow, Cell, Diagram, FigureGroup, HeatMap, Node
from nnsight_et.display.table import signed_score
from nnsight_et.results.headers import name_of
from nnsight_et.results.records import CircuitRecord, GroupRecord, MlpGroupRecord
from nnsight_et.results.store import Result

PALEST, DEEPEST = 10, 1000  # how far below the largest score one that matters may be: in proportion, by logarithm


@dataclass(frozen=True)
class StageView:
    """A stage of path patching, or one search of it, as figures show it."""

    group: str
    """The name of what it found."""
    into: str
    via: str | None
    at: str
    """The named position of the senders."""
    of_mlps: bool
    kept: Mapping[str, float]
    """What was kept -> its score."""
    beyond_chance: Collection[str]
    """What is beyond chance."""


def diagram(stages: Sequence[StageView], circuit: CircuitRecord, mlps: Sequence[MlpGroupRecord] = ()) -> Diagram:
    """The circuit's groups, and those of MLPs, from the logits down, and the stages' arrows between them."""
    scores = {(stage.group, head): score for stage in stages for head, score in stage.kept.items()}
    order, nodes = [stage.group for stage in stages if mlps], []
    for group in sorted((*circuit.groups, *mlps), key=lambda one: order.index(one.name) if order else 0):
        name = group.name
        kind, heads = ("head", tuple(group.heads)) if isinstance(group, GroupRecord) else ("MLP", tuple(group.mlps))
        listed = ", ".join(f"{head} {scores[name, head]:+.3f}" if (name, head) in scores else head for head in heads)
        text = f"{name} at {group.at}: {quantity(len(heads), kind)}{': ' if heads else ''}{listed}"
        nodes.append(Node(name, group.at, len(heads), heads, text, kind))
    positions = tuple(reversed(dict.fromkeys(node.at for node in nodes)))
    arrows = tuple(Arrow(stage.group, stage.into, stage.via) for stage in stages)
    return Diagram("circuit", positions, tuple(nodes), arrows)


def colour_legend(metric: Metric, panels: Sequence[HeatMap]) -> str:
    """What the colours and marks of a metric's heat maps mean."""
    found = METRICS[metric]
    matter = "Blue: negative, the head mattered." if found.ranks == "negative" else "Blue: large, the head mattered."
    dot = " Dot: beyond chance." if found.statistic else ""
    log = " Logarithmic colours, so that weak heads show next to strong ones."
    scale = log if any(panel.knee is not None for panel in panels) else ""
    return f"{matter} Framed: kept.{dot} Hatched: cannot reach the receivers, exactly 0.{scale}"


def heat_map(
    stage: StageView,
    scores: Mapping[str, Tensor],
    metric: Metric = DEFAULT_METRIC,
    circuit: CircuitRecord | None = None,
) -> HeatMap:
    """A stage's scores over all layers and heads, or MLPs; the colours end at the strongest score.

    circuit: what became of the stages' heads, where it is known.
    """
    found = {name: scores[key] for name in _OF_A_CELL if (key := f"{stage.group}.{name}") in scores}
    end = f"{stage.into} through its {stage.via}" if stage.via else stage.into
    n_layers, n_heads = found["score"].shape
    values = {name: tensor.tolist() for name, tensor in found.items()}
    moved = _moved_heads(stage, circuit)

    def cell(layer: int, head: int) -> Cell:
        name = f"L{layer}MLP" if stage.of_mlps else f"L{layer}H{head}"
        here = {key: matrix[layer][head] for key, matrix in values.items()}
        if not here.get("reach", True):
            return Cell(0.0, f"{name}: cannot reach {end}; exactly 0, not run", reached=False)
        if math.isnan(here["score"]):
            return Cell(None, f"{name}: {_left_text(here, metric)}")
        text = _text(name, here, metric) + (f"; kept{moved.get(name, '')}" if name in stage.kept else "")
        return Cell(here["score"], text, framed=name in stage.kept, dotted=name in stage.beyond_chance)

    cells = tuple(tuple(cell(layer, head) for head in range(n_heads)) for layer in range(n_layers))
    limit, knee = _scale([cell for row in cells for cell in row])
    title = f"{stage.group} → {stage.into}" + (f" ({stage.via})" if stage.via else "")
    negative = METRICS[metric].ranks == "negative"
    if stage.of_mlps:
        return HeatMap(title, _numbers(n_layers), ("MLP",), cells, limit, negative, ("layer", ""), knee)
    return HeatMap(title, _numbers(n_layers), _numbers(n_heads), cells, limit, negative, knee=knee)


def _scale(cells: Sequence[Cell]) -> tuple[float, float | None]:
    """The largest score, and where colours begin to grow with the logarithm, if some that matter would be too pale.

    What matters are heads beyond chance, or where nothing is tested, kept ones.
    """
    sizes = [abs(cell.value) for cell in cells if cell.value and cell.reached]
    limit = max(sizes, default=0.0) or 1.0
    chosen = [cell for cell in cells if cell.dotted] or [cell for cell in cells if cell.framed]
    weakest = max(min((abs(cell.value) for cell in chosen if cell.value), default=limit), limit / DEEPEST)
    return limit, weakest if weakest < limit / PALEST else None


def _moved_heads(stage: StageView, circuit: CircuitRecord | None) -> dict[str, str]:
    """Head -> where it is instead, of kept heads that a later stage keeps at the same position as well."""
    later = [group for group in circuit.groups if group.at == stage.at] if circuit else []
    return {
        head: f", and in {group.name}, which is found later"
        for group in later
        for head in group.heads
        if group.name != stage.group
    }


_OF_A_CELL = ("score", "low", "high", "p", "p_holm", "reach", "prompts")


def _text(name: str, here: Mapping[str, float], metric: Metric) -> str:
    text = f"{name}: {signed_score(here['score'], metric)}"
    if not math.isnan(here.get("low", math.nan)):
        text += f" [{signed_score(here['low'], metric)}, {signed_score(here['high'], metric)}]"
    if not math.isnan(here.get("p", math.nan)):
        text += f"; p {here['p']:.2g}" + (f", Holm {here['p_holm']:.2g}" if "p_holm" in here else "")
    return text


def _left_text(here: Mapping[str, float], metric: Metric) -> str:
    """What is known of a head that has no score."""
    if "prompts" not in here:
        return "not measured"
    ends = f"{signed_score(here['low'], metric)} and {signed_score(here['high'], metric)}"
    return f"dropped after {quantity(int(here['prompts']), 'prompt')}; its score lies between {ends}"


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))


def drawn_circuit(
    result: Result,
    stages: Sequence[StageView],
    circuit: CircuitRecord,
    title: str,
    mlps: Sequence[MlpGroupRecord] = (),
) -> FigureGroup:
    """A circuit, and the MLPs kept beside it, as one diagram with its caption."""
    size = sum(len(group.heads) for group in circuit.groups)
    groups = quantity(len(circuit.groups), "group")
    caption = f"{quantity(size, 'head')} in {groups}, each at its position. "
    if mlps:
        count = quantity(sum(len(group.mlps) for group in mlps), "MLP")
        caption += f"Next to them {count}, which are not part of the circuit. "
    if stages:
        more = ", or the input (I) of its MLPs" if mlps else ""
        caption += f"Along an arrow, the lower group changes the upper one's query (Q), key (K) or value (V){more}."
    return FigureGroup(f"{name_of(result.header)}-circuit", title, caption.strip(), (diagram(stages, circuit, mlps),))
