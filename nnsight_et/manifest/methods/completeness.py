"""method: completeness."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.written import Measured, OnCircuit


class Completeness(OnCircuit, Measured):
    """Compare circuit and model when both lose the same heads: random halves of the circuit, or a group (App. C)."""

    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # do circuit and model lose the same accuracy without the same heads? (App. C)
        complete: {method: completeness, circuit: <circuit>, examples: <200>, draws: 20}
    """

    method: Literal["completeness"]
    draws: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 20
    """How many random halves of the circuit to remove, one after another."""
