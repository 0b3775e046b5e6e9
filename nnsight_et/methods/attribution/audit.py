"""What must hold of results of attribution: of what was asked and found, and on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import Any

from torch import Tensor

from nnsight_et.core.circuit import Head
from nnsight_et.core.lists import to_list
from nnsight_et.manifest import Attribution
from nnsight_et.measuring.audit import Finding, differences
from nnsight_et.measuring.evidence import Evidence, places
from nnsight_et.measuring.recount import mean_interval
from nnsight_et.methods.attribution.summary import AttributionSummary
from nnsight_et.results.store import MethodResult
from nnsight_et.zoo.known import Known
from nnsight_et.zoo.statements import MATTERS, SCREENED, Statement, same_heads

TOP = 10


def audit_output(evidence: Evidence[Attribution, AttributionSummary]) -> Iterator[Finding]:
    """Position by position: the means of exact and estimated effects, and how well they agree."""
    spec, choice, shape = evidence.job.spec, evidence.choice, evidence.context.models.shape(evidence.choice)
    rows, scores = list[dict[str, Any]](), dict[str, Tensor]()
    heads = [(layer, index) for layer in range(shape.n_layers) for index in range(shape.n_heads)]
    examples = evidence.step(spec.at[0]).measurement.step.examples
    yield from evidence.selected(examples, "discovery", spec.examples, choice, spec.only_correct)
    for at in spec.at:
        one = evidence.step(at)
        yield from evidence.same_base(examples, one)
        yield from evidence.calls(one, "head_effects", lambda said: [said[1], *places(said[2])], [at, *heads])
        found = evidence.values(one)
        means = {name: found[name].double().sum(-1) / len(examples) for name in ("attributed", "exact")}
        means["low"], means["high"] = mean_interval(found["exact"]).unbind(-1)
        scores |= {f"{at}.{name}": values.reshape(shape.n_layers, shape.n_heads) for name, values in means.items()}
        said = (to_list(evidence.scores[f"{at}.{name}"].flatten()) for name in ("attributed", "exact"))
        how = "autograd" if bool(found["autograd"].all()) else "finite differences"
        rows.append({"at": at, "gradient": how} | _agreement(*said))
    yield from differences(evidence.summary.to_dict(), {"rows": rows, "model": choice.name})
    yield from differences(dict(evidence.scores), scores, "scores")


def _agreement(guessed: Sequence[float], exact: Sequence[float]) -> dict[str, Any]:
    """How well two lists of effects agree: by value, by rank, and in which are the lowest."""
    count = min(TOP, len(exact))
    best = [set(sorted(range(len(one)), key=one.__getitem__)[:count]) for one in (guessed, exact)]
    return {
        "pearson": _correlation(guessed, exact),
        "spearman": _correlation(_ranks(guessed), _ranks(exact)),
        "top": count,
        "top_found": len(best[0] & best[1]) / count,
    }


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    centred = [[value - sum(some) / len(some) for value in some] for some in (one, other)]
    sizes = [sum(value * value for value in some) ** 0.5 for some in centred]
    return sum(a * b for a, b in zip(*centred, strict=True)) / (sizes[0] * sizes[1]) if all(sizes) else nan


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(ordered.index(value) + len(ordered) - 1 - ordered[::-1].index(value)) / 2 for value in values]


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
