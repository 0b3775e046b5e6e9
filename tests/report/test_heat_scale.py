"""Heat maps in which one head is far stronger than others that matter: all of them are seen, and the scale says so."""

from __future__ import annotations

import pytest
import torch

from nnsight_et.core.circuit import Circuit, Head, HeadGroup
from nnsight_et.display.circuit_figures import StageView, colour_legend, heat_map
from nnsight_et.display.figures import HeatMap
from nnsight_et.report.html.svg import colour
from nnsight_et.report.html.svg import heat_map as as_svg
from nnsight_et.results.records import CircuitRecord

LIGHT = "d20"  # the colour of 0


def stage(strong: float, weak: float, beyond: list[str]) -> HeatMap:
    """Two layers of two heads: a strong one, a weak one that matters, one of noise, one that cannot reach."""
    scores = {
        "a.score": torch.tensor([[strong, weak], [weak / 50, 0.0]]),
        "a.reach": torch.tensor([[True, True], [True, False]]),
    }
    found = StageView("a", "logits", None, "last", False, {"L0H0": strong}, beyond)
    circuit = Circuit((HeadGroup("a", "last", ()), HeadGroup("b", "last", (Head(0, 0),))))
    return heat_map(found, scores, circuit=CircuitRecord.of(circuit))


def colours(figure: HeatMap) -> list[str]:
    return [colour(cell.value or 0.0, figure) for row in figure.cells for cell in row]


@pytest.mark.parametrize("weak", [-0.3, -0.03, -0.003])
def test_a_weak_head_that_matters_is_seen_beside_a_strong_one(weak: float):
    figure = stage(-3.5, weak, ["L0H0", "L0H1"])
    assert figure.knee == pytest.approx(abs(weak), rel=0.3)
    strong, seen, noise, _ = colours(figure)
    assert strong == "d0"
    assert int(seen[1:]) < int(LIGHT[1:])  # bluer than nothing
    assert noise == LIGHT
    assert "Log" in colour_legend("probability_ratio", [figure])
    texts = [one.text for one in as_svg(figure).iter() if one.tag.endswith("text") and one.text]
    assert texts[-3:] == ["−3.5", "+3.5", f"log beyond ±{figure.knee:.2g}"]


def test_scores_that_all_show_keep_the_plain_scale():
    figure = stage(-1.0, -0.5, ["L0H0", "L0H1"])
    assert figure.knee is None
    assert colours(figure) == ["d0", "d10", LIGHT, LIGHT]
    assert "Log" not in colour_legend("probability_ratio", [figure])


def test_what_does_not_matter_does_not_stretch_the_scale():
    assert stage(-3.5, -0.003, ["L0H0"]).knee is None


def test_the_colours_end_at_the_strongest_score_kept_or_not():
    figure = stage(-1.0, 2.0, ["L0H0"])
    assert figure.limit == 2.0
    assert colours(figure)[:2] == ["d10", "d40"]


def test_a_kept_head_that_a_later_group_has_says_so():
    assert stage(-1.0, -0.5, []).cells[0][0].text.endswith("; kept, and in b, which is found later")
