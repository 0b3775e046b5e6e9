"""How a step of a job is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nnsight_et.interventions.calls import Call
from nnsight_et.planning.plan import ModelChoice

Value = TypeVar("Value")


@dataclass(frozen=True)
class How:
    """How a step is measured: by which engine, which of its variants (None: all), and whether in fp32."""

    engine: str
    variants: tuple[int, ...] | None = None
    wide: bool = False

    def of(self, variants: Sequence[Value]) -> list[Value]:
        """Those of the step's variants that are measured."""
        return list(variants) if self.variants is None else [variants[index] for index in self.variants]

    def choice(self, choice: ModelChoice) -> ModelChoice:
        """The model with the dtype it is measured in."""
        return replace(choice, dtype="float32") if self.wide else choice


Measure = Callable[[tuple[int, ...], How], Call]
"""What a step measures of the examples with these indices: it finds tensors [..., batch] by name."""
