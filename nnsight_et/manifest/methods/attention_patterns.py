"""method: attention_patterns."""

from __future__ import annotations

from typing import ClassVar, Literal

from nnsight_et.manifest.written import Count, Flag, OnCircuit


class AttentionPatterns(OnCircuit):
    """Mean attention of each head of a circuit from its own position to the named positions (§4.1, §5.2)."""

    attention: ClassVar[Literal["sdpa", "eager"] | None] = "eager"

    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # where the circuit's heads look
        looks: {method: attention_patterns, circuit: <circuit>, examples: <200>}
    """

    method: Literal["attention_patterns"]
    examples: Count = 500
    """How many prompts the attention is averaged over."""
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""
