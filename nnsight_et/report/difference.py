"""Two runs, or two results -> what differs: how they were made, their values, and their heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

from nnsight_et.display.measurement import IDENTITY, TidyRow
from nnsight_et.methods.discovery.summary import DiscoverySummary
from nnsight_et.report.results import head_rows, metric_rows
from nnsight_et.results.headers import method_of, name_of
from nnsight_et.results.store import Result
from nnsight_et.results.study import Study

TOLERANCE = 1e-4
"""The self-check's tolerance for fp32: smaller differences are ignored."""
SELECTING = ("patching_score", "contribution", "mask")
"""What the names of heads' values begin with by which a method keeps or selects them: patching_score_kl too."""

ORDER = ("nodes", "group", "edges")
"""The metrics that come first when two graphs are compared."""

PROMPTS = "prompts_measured"
"""The value of heads that a screened stage has, and no other."""


@dataclass(frozen=True)
class Change:
    """Something of how results were made that differs: part is manifest, model, data, version or device."""

    part: str
    key: str
    a: str | None
    b: str | None
    experiments: tuple[str, ...]


@dataclass(frozen=True)
class ValueChange:
    """A value in both; `a` or `b` is None where only the other has it."""

    experiment: str
    a: TidyRow | None
    b: TidyRow | None
    screened: bool = False
    """Whether an interval without a value is what a screen says of a head that left."""

    @property
    def one(self) -> TidyRow:
        """The measurement of either, for what it is of."""
        found = self.a or self.b
        assert found is not None
        return found

    @property
    def difference(self) -> float | None:
        """B minus A; None where one of them is not there."""
        a, b = self._values
        return None if a is None or b is None or a == b == inf else b - a

    @property
    def size(self) -> float:
        """How far the values lie apart: 0 where neither is there or both are the same, infinite where one is not.

        A head that left a screen has an interval in place of a value: how far the other lies outside of it.
        """
        a, b = self._values
        one, other = _ends(self.a), _ends(self.b)
        if self.screened and (a is None or b is None) and one is not None and other is not None:
            return max(0.0, other[0] - one[1], one[0] - other[1])
        return 0.0 if a == b else inf if self.difference is None else abs(self.difference)

    @property
    def _values(self) -> tuple[float | None, float | None]:
        a, b = (side.value if side is not None and _has_value(side.value) else None for side in (self.a, self.b))
        return a, b

    @property
    def overlap(self) -> bool | None:
        """Whether the intervals of both overlap; None where there are not two."""
        sides = [side for side in (self.a, self.b) if side is not None]
        lows = [side.low for side in sides if side.low is not None and _has_value(side.low)]
        highs = [side.high for side in sides if side.high is not None and _has_value(side.high)]
        return max(lows) <= min(highs) if len(lows) == len(highs) == 2 else None


@dataclass(frozen=True)
class Members:
    """A group's heads that both results keep or select, and that only one does."""

    experiment: str
    group: str
    desideratum: str
    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """All that differs between A and B."""

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    compared: tuple[str, ...]
    """The experiments in both."""
    same: bool
    """Whether the compared results were made alike and are equal to the last bit, and neither has another."""
    changes: tuple[Change, ...]
    metrics: tuple[ValueChange, ...]
    """Those that differ by more than the tolerance, the largest first within an experiment."""
    heads: tuple[ValueChange, ...]
    """Those of single heads, the largest first."""
    members: tuple[Members, ...]
    tolerance: float


def difference(a: Study, b: Study, tolerance: float = TOLERANCE) -> Difference:
    """What differs between two studies, experiment by experiment; two single results are compared whatever their names.

    Values count as different when they lie more than `tolerance` apart.
    """
    pairs, only_a, only_b = _pairs(a, b)
    metrics, heads = [], []
    for name, one, other in pairs:
        found = sorted(_values(name, one, other, metric_rows), key=lambda change: -change.size)
        metrics += [change for change in found if change.size > tolerance]
        heads += list(_values(name, one, other, head_rows))
    return Difference(
        only_a,
        only_b,
        tuple(name for name, _, _ in pairs),
        not only_a and not only_b and all(_alike(one, other) for _, one, other in pairs),
        tuple(_changes(pairs)),
        tuple(metrics),
        tuple(sorted((change for change in heads if change.size > tolerance), key=lambda change: -change.size)),
        (*_members(heads), *_graphs(pairs)),
        tolerance,
    )


Pair = tuple[str, Result, Result]


def _pairs(a: Study, b: Study) -> tuple[list[Pair], tuple[str, ...], tuple[str, ...]]:
    names = [[name_of(result.header) for result in study.results] for study in (a, b)]
    if [len(some) for some in names] == [1, 1] and names[0] != names[1]:
        return [(f"{names[0][0]} | {names[1][0]}", a.results[0], b.results[0])], (), ()
    others = dict(zip(names[1], b.results, strict=True))
    pairs = [(name, one, others[name]) for name, one in zip(names[0], a.results, strict=True) if name in others]
    only_a = tuple(name for name in names[0] if name not in others)
    return pairs, only_a, tuple(name for name in names[1] if name not in names[0])


def _alike(a: Result, b: Result) -> bool:
    what = {"identity", "models", "data_digest", "versions", "device", "summary", "scores_digest"}
    return a.header.model_dump(include=what) == b.header.model_dump(include=what)


def _changes(pairs: Sequence[Pair]) -> Iterator[Change]:
    """What differs in how the results were made, once for all experiments that share a change."""
    found: dict[tuple[str, str, str | None, str | None], list[str]] = {}
    compared = {name for name, _, _ in pairs}
    for name, one, other in pairs:
        sides = [_ingredients(result, compared) for result in (one, other)]
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            values = [side.get(key) for side in sides]
            if values[0] != values[1]:
                found.setdefault((*key, values[0], values[1]), []).append(name)
    order = ("manifest", "model", "data", "version", "device")
    for (part, key, a, b), names in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        yield Change(part, key, a, b, tuple(names))


def _ingredients(result: Result, compared: set[str]) -> dict[tuple[str, str], str]:
    """(part, key) -> text, of everything a result was made from."""
    header = result.header
    job = header.job.to_dict()
    models = job.pop("models")
    job = {key: value for key, value in job.items() if key != "name"}
    job["needs"] = {name: digest for name, digest in header.job.needs.items() if name not in compared}
    parts = {("manifest", key.removeprefix("spec.")): value for key, value in _flat(job)}
    for index, choice in enumerate(models):
        parts |= {("manifest", f"models.{index}.{key}"): value for key, value in _flat(choice)}
    parts |= {("model", record.name): record.fingerprint for record in header.models}
    parts |= {("data", "examples"): header.data_digest, ("device", "device"): header.device}
    return parts | {("version", name): version for name, version in header.versions.items()}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of plain data by dotted path; a list of plain values is one leaf."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value)):
        for key, one in inner:
            yield from _flat(one, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    else:
        yield path, "none" if value is None else str(value)


def _values(name: str, a: Result, b: Result, rows_of: Callable[[Result], list[TidyRow]]) -> Iterator[ValueChange]:
    """Every value of both, those of A first; where each has one model, whatever the model."""
    one_model = all(len({record.name for record in result.header.models}) <= 1 for result in (a, b))
    sides = []
    for result in (a, b):
        sides.append({_identity(one, one_model): one for one in rows_of(result)})
    screened = {(*key[:-1],) for side in sides for key in side if key[-1] == PROMPTS}
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        yield ValueChange(name, sides[0].get(key), sides[1].get(key), (*key[:-1],) in screened)


def _identity(one: TidyRow, one_model: bool) -> tuple:
    anonymous = replace(one, experiment="", model="" if one_model else one.model)
    return anonymous.to_row()[: len(IDENTITY)]


def _graphs(pairs: Sequence[Pair]) -> Iterator[Members]:
    """Of two graphs that discovery found: their nodes by position, their groups, and their edges by where they end.

    Groups' names say in which order they were found, so of edges positions stand for them.
    """
    for name, *results in pairs:
        if any(method_of(result.header) != "discovery" for result in results):
            continue
        summaries = [DiscoverySummary.read(result.header) for result in results]
        sides = [_places(summary) for summary in summaries]
        found = [(place, *(side.get(place, {}) for side in sides)) for place in dict.fromkeys([*sides[0], *sides[1]])]
        for place, one, other in sorted([*found, *_groups(*summaries)], key=lambda row: ORDER.index(row[0].split()[0])):
            both = tuple(node for node in one if node in other)
            only = [tuple(node for node in some if node not in both) for some in (one, other)]
            yield Members(name, place, "", both, *only)


def _groups(a: DiscoverySummary, b: DiscoverySummary) -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """The groups of both: those of one position that share most nodes together, then those that share none."""
    ours, theirs = ([group for group in summary.groups if group.nodes] for summary in (a, b))
    shared = [
        (len({*one.nodes} & {*other.nodes}), one, other) for one in ours for other in theirs if one.at == other.at
    ]
    for count, one, other in sorted(shared, key=lambda row: -row[0]):
        if count and one in ours and other in theirs:
            ours.remove(one)
            theirs.remove(other)
            yield f"group {' | '.join(dict.fromkeys((one.name, other.name)))}", one.nodes, other.nodes
    yield from ((f"group {one.name}", one.nodes, ()) for one in ours)
    yield from ((f"group {other.name}", (), other.nodes) for other in theirs)


def _places(summary: DiscoverySummary) -> dict[str, dict[str, None]]:
    """Nodes under "nodes at <position>", and edges as the node's name under where they start and end."""
    found: dict[str, dict[str, None]] = {}
    for node in summary.nodes:
        found.setdefault(f"nodes at {node.at}", {})[node.node] = None
    at = {group.name: group.at for group in summary.groups}
    for edge in summary.graph:
        end = "logits" if edge.via is None else f"the {edge.via} at {at[edge.into]}"
        found.setdefault(f"edges from {edge.at} into {end}", {})[edge.node] = None
    return found


def _members(heads: Sequence[ValueChange]) -> Iterator[Members]:
    """Per group, and desideratum if there is one, whose heads the results keep."""
    groups: dict[tuple[str, str, str], list[ValueChange]] = {}
    for change in heads:
        if change.one.method != "discovery" and change.one.metric.startswith(SELECTING):
            groups.setdefault((change.experiment, change.one.group, change.one.desideratum), []).append(change)
    for place, changes in groups.items():
        in_a = {change.one.head for change in changes if change.a and change.a.kept}
        in_b = {change.one.head for change in changes if change.b and change.b.kept}
        order = [change.one.head for change in changes]
        sets = (in_a & in_b, in_a - in_b, in_b - in_a)
        yield Members(*place, *(tuple(head for head in order if head in some) for some in sets))


def _ends(one: TidyRow | None) -> tuple[float, float] | None:
    """Between what a value lies: itself and itself, or, where there is none, its bounds; None: nothing is known."""
    if one is None or one.low is None or one.high is None or isnan(one.low) or isnan(one.high):
        return None if one is None or one.value is None or isnan(one.value) else (one.value, one.value)
    return (one.low, one.high) if one.value is None else (one.value, one.value)


def _has_value(value: float | None) -> bool:
    return value is not None and not isnan(value)
