"""What a summary and scores say, held against what must be there, in plain Python and by no formula of the methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from torch import Tensor

NEAR = 1e-9  # thresholds and ties are not decided by rounding


class Finding(NamedTuple):
    """Something that was held against what it must be: under which check's name, how far off it is, and where."""

    check: str
    gap: float
    where: str


def finding(check: str, right: bool, where: str) -> Finding:
    """Of something that is right or wrong."""
    return Finding(check, 0.0 if right else inf, where)


def gap(found: Any, expected: float) -> float:
    """Relative to the larger of 1 and the expected value; 0 where neither exists."""
    if expected == inf:
        return 0.0 if found in ("infinite", inf) else inf
    if found is None or expected != expected or found != found:
        return 0.0 if (found is None or found != found) and expected != expected else inf
    return abs(found - expected) / max(1.0, abs(expected)) if found != "infinite" else inf


def differences(found: Any, expected: Any, where: str = "") -> Iterator[Finding]:
    """Everything in `found`, plain data or tensors by name, against `expected`: numbers are `recount`; names, counts
    and lists are `decisions`. What is in one of them alone is a difference.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        yield finding("decisions", set(found) == set(expected), f"{where or 'summary'}: its keys")
        for key in set(found) & set(expected):
            yield from differences(found[key], expected[key], f"{where}.{key}" if where else str(key))
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        yield finding("decisions", len(found) == len(expected), f"{where}: how many")
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from differences(one, other, f"{where}[{number}]")
    elif isinstance(expected, Tensor) and isinstance(found, Tensor):
        yield Finding("recount", tensor_gap(found, expected), where)
    elif isinstance(expected, float) or (expected is None and isinstance(found, float)):
        number = isinstance(found, (int, float)) or found in (None, "infinite")
        wanted = float("nan") if expected is None else expected
        yield Finding("recount", gap(found, wanted) if number else inf, where)
    else:
        yield finding("decisions", type(found) is type(expected) and found == expected, where)


def tensor_gap(found: Tensor, expected: Tensor) -> float:
    """The same of the largest gap between two tensors; infinite if their shapes, or what is missing in them, differ."""
    one, other = found.double(), expected.double()
    if one.shape != other.shape or not bool((one.isfinite() == other.isfinite()).all()):
        return inf
    gaps = ((one - other).abs() / other.abs().clamp(min=1)).nan_to_num(0.0, 0.0, 0.0)
    return float(gaps.max()) if gaps.numel() else 0.0


def right_answers(predicted: Tensor, right: Sequence[Sequence[int]]) -> Tensor:
    """[..., example] in float64: 1 where a predicted token [..., example] is among the right ones of its example."""
    width = max(map(len, right), default=1)
    among = predicted.new_tensor([[*one, *[one[0]] * (width - len(one))] for one in right])
    return sum_of(predicted == column for column in among.unbind(-1)).clamp(max=1).double()


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    """The sum of tensors of one shape, as whole numbers."""
    first = next(parts).long()
    for part in parts:
        first = first + part
    return first
