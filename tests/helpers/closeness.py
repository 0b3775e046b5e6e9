"""How near two computations of the same numbers come on any processor: as dtype and size let them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nnsight_et.core.statistics import RESAMPLES

ROUNDINGS = 100  # of the largest number: in three layers of the tiny models some 15 add up, in other orders of adding
FEW = 5  # draws that fall on the other side of a near tie
P_VALUES = 1e-3  # t, of as many examples, moves with the rounding of the scores


def tolerance(size: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """How far apart numbers of that size may be that were computed in that dtype."""
    return ROUNDINGS * torch.finfo(dtype).eps * size


def assert_near(
    found: Tensor, expected: Tensor, *, size: float = 0.0, dtype: torch.dtype | None = None, said: str = ""
) -> None:
    """The same numbers, NaN in the same places. `size`: of what they are differences of, where that is larger.

    `dtype` is the one they were computed in, without it the coarser of theirs.
    """
    if not (found.is_floating_point() and expected.is_floating_point()):
        assert torch.equal(found, expected), said
        return
    dtype = dtype or max(found.dtype, expected.dtype, key=lambda one: torch.finfo(one).eps)
    numbers = expected.double().nan_to_num(0.0)
    largest = max(size, numbers.abs().max().item() if numbers.numel() else 0.0)
    near = {"atol": tolerance(largest, dtype), "rtol": 0.0, "equal_nan": True}
    torch.testing.assert_close(
        found.double(), expected.double().expand_as(found), **near, msg=lambda text: f"{said} {text}"
    )


def assert_same_scores(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, said: str = ""
) -> None:
    """Two results have the same scores, computed in that dtype. A score is a ratio less 1, so 1 is its size.

    p-values move with the scores, and frequencies are counts of draws: a few may fall on the other side of a near tie.
    """
    assert found.keys() == expected.keys(), said
    for name, values in expected.items():
        heads, kind = int((~values.isnan()).sum()), name.rpartition(".")[2]
        if kind in ("p", "p_holm", "p_bh"):
            near = P_VALUES * (1 if kind == "p" else heads)  # adjusted they are multiplied by up to as many heads
        elif kind == "selection_frequency":
            near = FEW / RESAMPLES
        else:
            assert_near(found[name], values, size=1.0, dtype=dtype, said=f"{said} {name}")
            continue
        torch.testing.assert_close(found[name], values, atol=near, rtol=0, equal_nan=True)
