"""method: attribution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Method, ValidationContext, twice


class Attribution(Method):
    """A cheap screen, gradient times difference, beside the exact effect of patching each head's output."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # a cheap estimate of every head's effect by gradients, beside the exact one
        screen: {method: attribution, model: <model>, at: <screened>, examples: <100>}
    """

    method: Literal["attribution"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    at: Annotated[tuple[str, ...], Field(min_length=1)] = ("last",)
    """The named positions whose heads are screened."""
    examples: Count = 300
    """How many pairs of a base and a source prompt."""
    only_correct: Flag = False
    """Whether only prompts that the model itself answers right count."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the positions, if anything."""
        for index, at in enumerate(self.at):
            if at not in known.positions:
                yield Problem(("at", index), f"no position {at!a}; {accepted_names(at, known.positions)}")
        yield from twice(("at",), self.at)
