"""method: knockout."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.written import Count, Flag, Method, SpecModel, ValidationContext


class Edge(SpecModel):
    """Attention to block: from one named position to an earlier one."""

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
    """Measure accuracy when one position cannot attend to another, from each layer upwards (App. A)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # from which layer on does a position have what it needs? (App. A)
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
    """The attention to block; by default the five sweeps of App. A."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)] | None = None
    """Block attention from each of these layers upwards, such as [0, 8, 16]; by default from every layer.

    Accuracy with nothing blocked is always measured too.
    """
    examples: Count = 500
    """How many prompts to measure accuracy on."""
    only_correct: Flag = False
    """Use only prompts that the model itself answers correctly."""

    def identity(self, exclude: set[str]) -> dict[str, Any]:
        """What is digested: without layers as it was before they could be said."""
        return super().identity(exclude | ({"layers"} if self.layers is None else set()))

    def first_layers(self, n_layers: int) -> list[int]:
        """From which layers up attention is blocked, in a model of so many; last, in none."""
        return [*(range(n_layers) if self.layers is None else self.layers), n_layers]

    def layer_problems(self, n_layers: int) -> Iterator[Problem]:
        """A problem for each layer that a model of so many does not have."""
        for index, layer in enumerate(self.layers or ()):
            if layer >= n_layers:
                text = f"layer {layer}, but {self.model} has {n_layers} layers; accepted: 0 to {n_layers - 1}"
                yield Problem(("layers", index), text)

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the layers or edges, if anything."""
        for index, (layer, following) in enumerate(pairwise(self.layers or ()), start=1):
            if following <= layer:
                yield Problem(
                    ("layers", index), f"found {following} after {layer}; accepted: layers in increasing order"
                )
        if (shape := known.shapes.get(self.model)) is not None:
            yield from self.layer_problems(shape.n_layers)
        for index, edge in enumerate(self.edges):
            if edge in self.edges[:index]:
                yield Problem(("edges", index), f"{edge.blind} to {edge.to} appears twice; accepted: each edge once")
            if edge.blind not in known.positions:
                yield Problem(
                    ("edges", index, "blind"),
                    f"no position {edge.blind!a}; {accepted_names(edge.blind, known.positions)}",
                )
                continue
            earlier = (*known.positions[: known.positions.index(edge.blind)], "random")
            if edge.to not in earlier:
                text = f"{edge.to!a} is not a position before {edge.blind}; {accepted_names(edge.to, earlier)}"
                yield Problem(("edges", index, "to"), text)
