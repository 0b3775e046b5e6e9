"""method: minimality."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.written import Count, Measured, OnCircuit


class Minimality(OnCircuit, Measured):
    """Prune a circuit: keep heads that add accuracy once the heads that compensate for them are removed (App. B)."""

    finds_circuit: ClassVar[bool] = True
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # the circuit without heads that add less than the threshold to its accuracy (App. B)
        minimal: {method: minimality, circuit: <candidates>, examples: <100>, threshold: 0.01}
    """

    method: Literal["minimality"]
    examples: Count = 100
    """How many prompts to measure accuracy on."""
    threshold: Annotated[float, Field(ge=-1, le=1e6, allow_inf_nan=False, strict=True)] = 0.01
    """The relative gain in accuracy that a head must add to be kept."""
    fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] = 0.3
    """At most what share of a group is removed together with a head, as those that compensate for it."""
