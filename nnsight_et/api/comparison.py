"""How two circuits overlap (App. E4, F4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from nnsight_et.api.arguments import AnyHeads, as_circuit
from nnsight_et.api.context import experimenting
from nnsight_et.api.findings import Finding, Row, finding_of
from nnsight_et.api.path_patching import PatchingScores
from nnsight_et.core.errors import TaskError, brief, quantity
from nnsight_et.manifest import Comparison


@dataclass(frozen=True, repr=False)
class Overlap(Finding):
    """What `et.compare` returns: how two circuits overlap, with one row per group."""

    impact: tuple[Row, ...] = ()
    """Given scores: all heads of both circuits, those that matter most first."""


def compare(first: AnyHeads, second: AnyHeads, scores: Mapping[str, PatchingScores | Tensor] | None = None) -> Overlap:
    """Measure how two circuits overlap, group by group, and rank their heads by causal impact (App. E4, F4).

    No model runs.

    Args:
        first: A circuit, such as the pretrained model's. Groups are compared by name.
        second: Another circuit, such as the finetuned model's.
        scores: Group -> what `et.path_patch` returns for the second's model, or its scores [layer, head]. Given these,
            heads are ranked by |score|.

    Returns:
        An Overlap. `.rows`: one per group, with the sizes "first", "second" and "shared", "precision" (the share of the
        first's heads that the second has) and "recall" (the reverse). `.impact`: given `scores`, one row per head, with
        its |score| and whether it is "in_pretrained" and "in_finetuned". `.scores` is empty.

    Raises:
        TaskError: An argument has the wrong type or value, or a group has no scores, or not those of all its heads.

    Examples:
        >>> import nnsight_et as et
        >>> one = et.HeadGroup("mine", "last", ["L5H0", "L4H1"])
        >>> found = et.compare(one, et.HeadGroup("mine", "last", ["L5H0"]))
        >>> found.rows[0]["shared"], found.rows[0]["precision"], found.rows[0]["recall"]
        (1, 0.5, 1.0)
    """
    circuits = {"first": as_circuit(first, "first"), "second": as_circuit(second, "second")}
    values = {name: _values(name, one) for name, one in _named(scores).items()}
    for group in (group for circuit in circuits.values() for group in circuit.groups if group.name in values):
        shape = values[group.name].shape
        for head in group.heads:
            if head.layer >= shape[0] or head.index >= shape[1]:
                found = f"no {head} among {quantity(shape[0], 'layer')} of {quantity(shape[1], 'head')}"
                raise TaskError(f"scores[{group.name!r}]: {found}; accepted: scores of the circuits' model")
    spec = Comparison(
        method="comparison", circuits=("first", "second"), scores=None if scores is None else "path_patching"
    )
    with experimenting("compare", spec, circuits=circuits, scores=values) as run:
        result = run.result()
    summary = result.header.summary
    return Overlap(**finding_of(result, summary["rows"]), impact=tuple(summary.get("impact", ())))


def _named(scores: object) -> Mapping[str, object]:
    if scores is not None and not isinstance(scores, Mapping):
        accept = 'a mapping from group to what et.path_patch returns: {"mine": scores}'
        raise TaskError(f"scores: {brief(scores)}; accepted: {accept}")
    return scores or {}


def _values(name: str, scores: object) -> Tensor:
    values = scores.values if isinstance(scores, PatchingScores) else scores
    if not isinstance(values, Tensor) or values.ndim != 2:
        accept = "what et.path_patch returns, or a tensor [layer, head]"
        raise TaskError(f"scores[{name!r}]: {brief(scores)}; accepted: {accept}")
    return values
