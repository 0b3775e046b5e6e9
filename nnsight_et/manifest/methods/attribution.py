"""method: attribution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Method, ValidationContext, twice


class Attribution(Method):
    """Estimate each head's effect cheaply, as gradient times difference, and compare it with the exact effect."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # a cheap gradient estimate of every head's effect, next to the exact one
        screen: {method: attribution, model: <model>, at: <screened>, examples: <100>}
    """

    method: Literal["attribution"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    at: Annotated[tuple[str, ...], Field(min_length=1)] = ("last",)
    """The named positions at which heads are measured."""
    examples: Count = 300
    """How many pairs of a base and a source prompt to use."""
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the positions, if anything."""
        for index, at in enumerate(self.at):
            if at not in known.positions:
                yield Problem(("at", index), f"no position {at!a}; {accepted_names(at, known.positions)}")
        yield from twice(("at",), self.at)
