"""method: knockout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Method, SpecModel, ValidationContext


class Edge(SpecModel):
    """Attention that is blocked: from one named position to an earlier one."""

    blind: str
    """The position whose attention is blocked."""
    to: str
    """The position it may not attend to, or `random`: an earlier token of each prompt, not a named one."""


EDGES = (
    Edge(blind="last", to="correct_object"),
    Edge(blind="last", to="query_label"),
    Edge(blind="last", to="random"),
    Edge(blind="query_label", to="previous_query_label"),
    Edge(blind="query_label", to="random"),
)


class Knockout(Method):
    """Accuracy when one position may not attend to another from some layer up, for every layer (App. A)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # from which layer on a position has what it needs (App. A)
        blind:
          method: knockout
          model: <model>
          examples: <200>
          edges: <edges>
    """

    method: Literal["knockout"]
    model: str
    """A built-in model, one of `models:`, a folder, or a hub id."""
    edges: Annotated[tuple[Edge, ...], Field(min_length=1)] = EDGES
    """What is blocked; the five sweeps of App. A when absent."""
    examples: Count = 500
    """How many prompts accuracy is measured on."""
    only_correct: Flag = False
    """Whether only prompts that the model itself answers right count."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the edges, if anything."""
        for index, edge in enumerate(self.edges):
            if edge in self.edges[:index]:
                yield Problem(("edges", index), f"{edge.blind} to {edge.to} is there twice")
            if edge.blind not in known.positions:
                yield Problem(
                    ("edges", index, "blind"),
                    f"no position {edge.blind!a}; {accepted_names(edge.blind, known.positions)}",
                )
                continue
            earlier = (*known.positions[: known.positions.index(edge.blind)], "random")
            if edge.to not in earlier:
                text = f"{edge.to!a} is no position before {edge.blind}; {accepted_names(edge.to, earlier)}"
                yield Problem(("edges", index, "to"), text)
