"""method: activation_patching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.methods.dcm import BOXES_DESIDERATA, Desideratum, desiderata_problems
from nnsight_et.manifest.written import Count, Method, ValidationContext, roles_problems, twice


class ActivationPatching(Method):
    """Patch a group's heads, all or those that DCM selected, from the source run in every model (§5.2-5.3, Fig. 3)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = True
    template: ClassVar[str] = """
        # what those heads do in each model (section 5.2)
        functions: {method: activation_patching, roles: <roles>, models: <models>, examples: <200>}
    """

    method: Literal["activation_patching"]
    roles: Annotated[str, Field(min_length=1)]
    """The dcm experiment that selected the heads, or a shipped selection such as published/llama.

    An experiment that finds a circuit also works: all heads of each of its groups are then patched for every
    desideratum.
    """
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """The models to patch, in the order of the figure."""
    desiderata: Annotated[tuple[Desideratum, ...], Field(min_length=1)] | None = None
    """The desiderata to test; by default those that heads were selected for.

    Variants of `position` patch the heads that were selected for `position`.
    """
    examples: Count = 500
    """How many pairs each draw has."""
    draws: Annotated[int, Field(ge=1, le=1000, strict=True)] = 10
    """How many fresh samples of pairs the mean and standard deviation are computed over."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the roles, models or desiderata, if anything."""
        if self.roles not in known.circuits:
            yield from roles_problems(("roles",), self.roles, known)
        elif self.desiderata is None:
            text = (
                f"missing, but required because {self.roles} selects no heads; accepted: {', '.join(known.desiderata)}"
            )
            yield Problem(("desiderata",), text)
        yield from twice(("models",), self.models)
        yield from desiderata_problems(("desiderata",), self.desiderata or (), known)
        trained = known.roles.get(self.roles, ())
        for index, name in enumerate(self.desiderata or () if trained else ()):
            if (
                name in known.desiderata
                and name not in trained
                and (name not in BOXES_DESIDERATA[3:] or "position" not in trained)
            ):
                text = f"{self.roles} selects no heads for {name}; {accepted_names(name, trained)}"
                yield Problem(("desiderata", index), text)
