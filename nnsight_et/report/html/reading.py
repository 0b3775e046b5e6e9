"""How each kind of figure is read, for people who see it for the first time."""

from __future__ import annotations

from nnsight_et.display.figures import Bars, Curves, Diagram, Figure, HeatMap, ImpactPlot, Scatter

SCORES = (
    "Each square is a head; layers run upwards, heads across. A blue head mattered: without its usual output the "
    "answer is less likely. An orange head worked against the answer. A stronger colour means a larger effect. Framed "
    "heads were kept; a dot means beyond chance. Hatched heads cannot affect what is measured."
)
SHARES = "Each row adds up to 1. A stronger colour means a larger share for its column."
READING: dict[type[Figure], str] = {
    Diagram: (
        "Tokens run from left to right, layers upwards to the logits. A box is a group of heads at one position of the "
        "prompt. An arrow means that the upper group reads what the lower one writes, through its query (Q), key (K) "
        "or value (V)."
    ),
    Bars: (
        "Compare the bars of one group. The lines through their tops are 95% intervals: where two do not overlap, the "
        "difference is unlikely to be chance. Dashed lines and ticks are reference values."
    ),
    Curves: "Follow a line from left to right: where it drops or rises, something happens at that layer.",
    Scatter: "A point on the diagonal has the same value on both axes. The further off, the more the two disagree.",
    ImpactPlot: (
        "Heads have the same order above and below, strongest first. A filled bar belongs to that side's circuit. "
        "A tall bar that is filled on only one side is a head that matters but is missing from the other circuit."
    ),
}


def reading_of(panel: Figure) -> str:
    """How a figure is read."""
    if isinstance(panel, HeatMap):
        return SCORES if panel.axes[0] == "layer" else SHARES
    return READING[type(panel)]
