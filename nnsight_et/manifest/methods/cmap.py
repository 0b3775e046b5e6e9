"""method: cmap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nnsight_et.core.errors import accepted_names
from nnsight_et.manifest.document import Problem
from nnsight_et.manifest.methods.dcm import Desideratum
from nnsight_et.manifest.written import (
    CircuitName,
    Count,
    Flag,
    Method,
    Name,
    ValidationContext,
    circuit_problems,
    roles_problems,
)

MAIN_ROLES = {"value_fetcher": "object", "position_transmitter": "position", "position_detector": "position"}


class CMAP(Method):
    """Patch a donor model's head activations into a recipient's runs of the same prompts (§6, Fig. 4)."""

    finds_circuit: ClassVar[bool] = False
    needs_desiderata: ClassVar[bool] = False
    template: ClassVar[str] = """
        # the finetuned model's heads in the pretrained one (section 6)
        across: {method: cmap, donor: <finetuned>, recipient: <model>, circuit: <finetuned_circuit>, examples: <200>}
    """

    method: Literal["cmap"]
    donor: str
    """The model that activations are copied from."""
    recipient: str
    """The model that they are patched into."""
    circuit: CircuitName
    """The donor's circuit: an experiment, a .json file, or a shipped one such as published/goat."""
    roles: Annotated[str, Field(min_length=1)] | None = None
    """The dcm experiment or shipped selection (published/goat) that chooses the heads; by default all are patched."""
    main_role: dict[Name, Desideratum] = MAIN_ROLES  # type: ignore[assignment]
    """Group -> the desideratum whose heads are patched. Groups that are not listed are patched with all their heads."""
    examples: Count = 500
    """How many prompts to measure accuracy on."""
    random_sets: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 10
    """How many random sets of the same number of heads to patch for comparison."""
    inputs: Flag = True
    """Also patch the donor's queries, keys and values."""

    def problems(self, known: ValidationContext) -> Iterator[Problem]:
        """What is wrong with the circuit, the roles or the models, if anything."""
        yield from circuit_problems(("circuit",), self.circuit, known)
        if self.roles is not None:
            yield from roles_problems(("roles",), self.roles, known)
            for group, name in self.main_role.items():
                if known.desiderata and name not in known.desiderata:
                    yield Problem(("main_role", group), f"found {name!a:.60}; {accepted_names(name, known.desiderata)}")
        shapes = [known.shapes.get(name) for name in (self.donor, self.recipient)]
        if None not in shapes and shapes[0] != shapes[1]:
            text = f"{self.recipient} and the donor {self.donor} differ in shape; accepted: models of one shape"
            yield Problem(("recipient",), text)
