"""The splits of the tasks with a generator: a text belongs to exactly one of them, whatever the seed it came from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from hashlib import blake2b
from typing import Protocol, TypeVar

from nnsight_et.core.errors import TaskError, accepted_names, quantity

SPLITS = ("discovery", "pruning", "evaluation", "ablation")
"""What finds heads, what prunes them, what measures them, and what says what ablated heads output."""
MASK_SPLITS = ("mask_training", "mask_validation", "mask_test")
"""What DCM uses: thirds of `ablation`, whose prompts decide nothing elsewhere."""
TRIES = 1000


class Divided(Hashable, Protocol):
    """Something whose text says which split it belongs to."""

    @property
    def text(self) -> str:
        """The text that is digested."""
        ...


Drawn = TypeVar("Drawn", bound=Divided)


def split_of(text: str) -> str:
    """The split a text belongs to."""
    return SPLITS[blake2b(text.encode(), digest_size=1).digest()[0] % len(SPLITS)]


def is_of(text: str, split: str) -> bool:
    """Whether a text is of a split, or of one of MASK_SPLITS."""
    if split in SPLITS:
        return split_of(text) == split
    third = blake2b(text.encode(), digest_size=4, person=b"mask").digest()
    return split_of(text) == "ablation" and MASK_SPLITS[int.from_bytes(third, "big") % len(MASK_SPLITS)] == split


def without_repeats(draw: Callable[[], Drawn], split: str, where: str) -> Iterator[Drawn]:
    """What `draw` gives of `split`, none twice; TaskError naming `where` when no more are found."""
    if split not in (*SPLITS, *MASK_SPLITS):
        raise TaskError(f"no split {split!r}; {accepted_names(split, (*SPLITS, *MASK_SPLITS))}")
    seen: set[Drawn] = set()
    while True:
        for _ in range(TRIES):
            one = draw()
            if one not in seen and is_of(one.text, split):
                break
        else:
            raise TaskError(
                f"{where}: found only {quantity(len(seen), 'different prompt')} of the split {split}; accepted: fewer"
            )
        seen.add(one)
        yield one
