"""What must hold of results of attribution: of their own scores, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.methods.attribution.summary import AttributionSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import MATTERS, SCREENED, Statement, same_heads


def statements(known: Known, _: str, result: MethodResult[AttributionSummary]) -> Iterator[Statement]:
    """At every position the planted heads alone have an effect, and the gradient's estimate ranks them first."""
    for at in SCREENED:
        planted = set(known.circuit.at(at))
        exact, guessed = (result.scores[f"{at}.{name}"] for name in ("exact", "attributed"))
        yield same_heads(f"exact at {at}", planted, {Head(*h) for h in to_list((exact <= MATTERS).nonzero())})
        width = guessed.shape[1]
        if not planted or known.unread:
            continue  # nothing to rank; or distractors, whose first-order effect on the norm misleads the estimate
        first = to_list(guessed.abs().flatten().argsort(descending=True, stable=True)[: len(planted)])
        yield same_heads(f"estimated at {at}", planted, {Head(*divmod(place, width)) for place in first})
