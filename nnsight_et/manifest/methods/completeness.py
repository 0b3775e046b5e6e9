"""method: completeness."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nnsight_et.manifest.methods.shared import Measured, OnCircuit


class Completeness(OnCircuit, Measured):
    """Compare circuit and model when both lose the same heads: random halves of it, and each group (App. C)."""

    method: Literal["completeness"]
    draws: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 20
    """How many random halves."""
