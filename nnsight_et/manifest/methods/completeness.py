"""method: completeness."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.written import Measured, OnCircuit


class Completeness(OnCircuit, Measured):
    """Compare circuit and model when both lose the same heads: random halves of it, and each group (App. C)."""

    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # whether circuit and model lose alike when both lose the same heads (App. C)
        complete: {method: completeness, circuit: <circuit>, examples: <200>, draws: 20}
    """

    method: Literal["completeness"]
    draws: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 20
    """How many random halves."""
