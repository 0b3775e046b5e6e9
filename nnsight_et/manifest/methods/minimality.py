"""method: minimality."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.manifest.written import Count, Measured, OnCircuit


class Minimality(OnCircuit, Measured):
    """Prune a candidate circuit: keep the heads that add to it when those that make up for them are gone (App. B)."""

    finds_circuit: ClassVar[bool] = True
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # the circuit without heads that add less than the threshold to its accuracy (App. B)
        minimal: {method: minimality, circuit: <candidates>, examples: <100>, threshold: 0.01}
    """

    method: Literal["minimality"]
    examples: Count = 100
    """How many prompts accuracy is measured on."""
    threshold: Annotated[float, Field(ge=-1, le=1e6, allow_inf_nan=False, strict=True)] = 0.01
    """What a head must add to the accuracy, as a share of it, to be kept."""
    fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)] = 0.3
    """How large a part of a group the heads that are taken out with one head may be."""
