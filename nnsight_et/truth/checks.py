"""Results beside the truth: per method, what was expected and what was found. The truth comes from Known alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nnsight_et.core.circuit import Head
from nnsight_et.results.store import Result
from nnsight_et.truth.study import SCREENED, Trial, fewer
from nnsight_et.zoo.known import Known

MATTERS = -0.05
"""Patching scores at or below this count as found: planted heads score -0.1 and lower, all others 0."""
NOTHING = 1e-5
"""The largest score a distractor may have: its output is large, and rounding is all of it that arrives."""
CLOSE = 0.05
"""How far an accuracy may be from the truth."""
MOVED = 0.1
"""How far a share of a gap may be from the truth: with D silenced the recipient guesses, and a guess can tip over."""
LOST = 0.5
"""Accuracy of a model whose circuit is cut is below this; by construction it answers <unk>."""
GUESSED = 0.35
"""The accuracy below which a group's patch only guesses: one segment in seven is right."""
LOOKS = 0.8
"""The least share of its attention that a planted head gives to the token it was built to look at."""


class Found(NamedTuple):
    """One statement of truth and what a method made of it."""

    what: str
    expected: str
    found: str
    right: bool
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """A statement of truth about a model, and what one method on one engine found."""

    model: str
    seed: int
    engine: str
    method: str
    what: str
    expected: str
    found: str
    right: bool
    numbers: Mapping[str, float] = field(default_factory=dict)


def checks(trial: Trial, results: Mapping[str, Result]) -> list[Check]:
    """Every statement of truth about the trial's model beside what its results say."""
    return [
        Check(trial.known.name, trial.seed, trial.engine, _method(result), *found)
        for name, result in results.items()
        for found in CHECKS[_method(result)](trial.known, name, result)
    ]


def _method(result: Result) -> str:
    return str(result.header.job["spec"]["method"])


def path_patching(known: Known, _: str, result: Result) -> Iterator[Found]:
    """Every stage finds its planted heads and no other; distractors score nothing."""
    loudest = 0.0
    for group in known.circuit.groups:
        score = result.scores[f"{group.name}.score"]
        below = {Head(*place) for place in (score <= MATTERS).nonzero().tolist()}
        yield same_heads(group.name, set(group.heads), below)
        loudest = max([loudest, *(abs(score[head].item()) for head in known.unread)])
    if known.unread:
        numbers = {"largest_score": loudest}
        yield Found("distractors", f"at most {NOTHING:.0e}", f"{loudest:.1e}", loudest <= NOTHING, numbers)


def minimality(known: Known, _: str, result: Result) -> Iterator[Found]:
    """Heads that cannot be missed stay, either of two that make up for each other included; all others go."""
    rows = result.header.summary["heads"]
    for name, group in known.groups.items():
        planted = set(known.circuit.group(name).heads)
        kept = {Head.parse(row["head"]) for row in rows if row["group"] == name and row["kept"]}
        yield same_heads(name, planted if group.missed else set(), kept)
        if len(planted) == 2:
            wanted = {(head, other) for head in planted for other in planted if head != other}
            pairs = {(Head.parse(row["head"]), Head.parse(other)) for row in rows for other in row["without"]}
            pairs = {pair for pair in pairs if pair[0] in planted}
            yield Found(f"{name}: stand-ins", _pairs(wanted), _pairs(pairs), pairs == wanted, {})


def faithfulness(_: Known, __: str, result: Result) -> Iterator[Found]:
    """The model answers every prompt, and so does its circuit alone."""
    (row,) = result.header.summary["rows"]
    yield near("full model", 1.0, row["full"])
    yield near("circuit alone", 1.0, row["circuit"])


def completeness(known: Known, experiment: str, result: Result) -> Iterator[Found]:
    """Circuit and model lose alike; without a stand-in that the circuit lacks, the circuit alone loses."""
    rows = {row["removed"]: row for row in result.header.summary["rows"]}
    lacking = {"incomplete": known.circuit.groups[0].name}.get(experiment)
    title = f"lacking {known.circuit.groups[0].heads[-1]}" if lacking else "circuit"
    for name, group in known.groups.items():
        row = rows[name]
        yield near(f"{title} without {name}: difference", float(name == lacking), row["completeness"])
        left = 1.0 if name == lacking or not group.missed else 0.0
        yield near(f"model without {name}", left, row["model"], LOST if not left else CLOSE)
    if drawn := result.header.summary["random"]:
        yield near(f"{title} without random halves: difference", 0.0, drawn["completeness"]["mean"])


def comparison(known: Known, _: str, result: Result) -> Iterator[Found]:
    """The overlap of the circuit with the one that lacks a head."""
    rows = {row["group"]: row for row in result.header.summary["rows"]}
    for whole, part in zip(known.circuit.groups, fewer(known.circuit).groups, strict=True):
        row = rows[whole.name]
        yield near(f"{whole.name}: precision", len(part.heads) / len(whole.heads), row["precision"], 0)
        yield near(f"{whole.name}: recall", 1.0, row["recall"], 0)


def dcm(known: Known, _: str, result: Result) -> Iterator[Found]:
    """All heads of a group are selected for the variable it carries, and none for any other."""
    for row in result.header.summary["rows"]:
        name, variable = row["group"], row["desideratum"]
        what = f"{name}, {variable}"
        if (name, variable) in known.guesses:
            yield below(f"{what}: guesses", GUESSED, row["accuracy"])
            continue
        carried = known.groups[name].carries == variable
        planted = set(known.circuit.group(name).heads) if carried else set()
        yield same_heads(what, planted, {Head.parse(head) for head in row["selected"]})
        yield near(f"{what}: accuracy", float(carried), row["accuracy"])


def activation_patching(known: Known, _: str, result: Result) -> Iterator[Found]:
    """The selected heads, patched on fresh prompts, give the target of the variable they carry."""
    for row in result.header.summary["rows"]:
        name, variable = row["group"], row["desideratum"]
        if (name, variable) not in known.guesses:
            yield near(f"{name}, {variable}", float(known.groups[name].carries == variable), row["mean"])


def cmap(known: Known, _: str, result: Result) -> Iterator[Found]:
    """Patched groups before the one that differs move nothing, it and those after it all of the gap."""
    summary = result.header.summary
    silenced = summary["recipient"].removeprefix("without-")
    reached = known.downstream(silenced)
    told = {(known.groups[name].into, known.groups[name].via) for name in reached} | {(silenced, "key")}
    low, high = summary["models"][summary["recipient"]], summary["models"][summary["donor"]]
    yield near("donor alone", 1.0, high)
    yield below("recipient alone", LOST, low)
    for row in summary["rows"]:
        name, patched = row["group"], row["patched"]
        whole = (name, patched) in told
        if patched in ("output", "query+key+value"):
            whole = name == "all" or name in reached
        share = (row["accuracy"] - low) / (high - low) if high > low else float("nan")
        yield near(f"{silenced} silenced; {patched} of {name}: share of the gap", float(whole), share, MOVED)


def knockout(known: Known, _: str, result: Result) -> Iterator[Found]:
    """Blocking a planted head's attention costs the answer up to its layer, and nothing from the next one on."""
    for row in result.header.summary["rows"]:
        expected = known.harmless_from(row["blind"], row["to"])
        costs = [layer for layer, accuracy in enumerate(row["accuracy"]) if accuracy < 1 - CLOSE]
        harmless = max(costs, default=-1) + 1
        lost = all(accuracy < LOST for accuracy in row["accuracy"][:expected])
        found = f"L{harmless}" if lost else f"L{harmless}, with answers before"
        yield Found(f"{row['blind']} to {row['to']}: harmless from", f"L{expected}", found, found == f"L{expected}", {})


def attention_patterns(known: Known, _: str, result: Result) -> Iterator[Found]:
    """Every planted head looks where it was built to look."""
    for name, group in known.groups.items():
        rows = [row for row in result.header.summary["rows"] if row["group"] == name]
        least = min(row[group.looks_at] for row in rows)
        yield Found(
            f"{name} at {group.looks_at}", f"at least {LOOKS}", f"{least:.2f}", least >= LOOKS, {"least": least}
        )


def attribution(known: Known, _: str, result: Result) -> Iterator[Found]:
    """At every position the planted heads alone have an effect, and the gradient's estimate ranks them first."""
    for at in SCREENED:
        planted = set(known.circuit.at(at))
        exact, guessed = (result.scores[f"{at}.{name}"] for name in ("exact", "attributed"))
        yield same_heads(f"exact at {at}", planted, {Head(*h) for h in (exact <= MATTERS).nonzero().tolist()})
        width = guessed.shape[1]
        if not planted or known.unread:
            continue  # nothing to rank; or distractors, whose first-order effect on the norm misleads the estimate
        first = guessed.abs().flatten().argsort(descending=True, stable=True)[: len(planted)].tolist()
        yield same_heads(f"estimated at {at}", planted, {Head(*divmod(place, width)) for place in first})


def same_heads(what: str, expected: set[Head], found: set[Head]) -> Found:
    """Whether two sets of heads are one, with precision and recall; of nothing found in nothing both are 1."""
    shared = len(expected & found)
    precision, recall = (shared / len(heads) if heads else float(not expected) for heads in (found, expected))
    if not expected:
        recall = 1.0
    numbers = {"precision": precision, "recall": recall}
    return Found(what, _names(expected), _names(found), expected == found, numbers)


def near(what: str, expected: float, found: float, tolerance: float = CLOSE) -> Found:
    """Whether a number is the expected one, give or take the tolerance."""
    right = abs(found - expected) <= tolerance  # never true of NaN
    return Found(what, f"{expected:.2f}", f"{found:.2f}", right, {"value": found})


def below(what: str, limit: float, found: float) -> Found:
    """Whether a number is below its limit."""
    return Found(what, f"below {limit:.2f}", f"{found:.2f}", found < limit, {"value": found})


def _names(heads: Iterable[Head]) -> str:
    return " ".join(map(str, sorted(heads))) or "none"


def _pairs(pairs: Iterable[tuple[Head, Head]]) -> str:
    return ", ".join(f"{other} for {head}" for head, other in sorted(pairs)) or "none"


CHECKS: dict[str, Callable[[Known, str, Result], Iterator[Found]]] = {
    "path_patching": path_patching,
    "faithfulness": faithfulness,
    "minimality": minimality,
    "completeness": completeness,
    "comparison": comparison,
    "dcm": dcm,
    "activation_patching": activation_patching,
    "cmap": cmap,
    "knockout": knockout,
    "attention_patterns": attention_patterns,
    "attribution": attribution,
}
